"""The dataset's columns, written once. `data_prep` writes them; `finetune` checks them on arrival."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from datasets import Features

SPLITS = ("train", "validation", "test")

Store = Literal["files", "clips", "frames"]
STORES: tuple[Store, ...] = ("files", "clips", "frames")

# One of these columns holds the pictures, by store.
STORE_COLUMN: dict[Store, str] = {"files": "video", "clips": "video", "frames": "frames"}

# Beside the store's column, and empty where there is nothing to say: how to read single frames of `video`
# (`data_prep.index`), and when frames are shown whose rate is not constant.
PACKET_INDEX, FRAME_TIMES = "packet_index", "frame_times"

# What training cannot do without, beside the store's column and `label` or `labels`.
REQUIRED_COLUMNS = ("video_id", "num_frames")


def dataset_features(
    labels: list[str], store: Store, multi_label: bool = False, spans: bool = False, folds: bool = False
) -> Features:
    """Columns and types of every split.

    `video_id` is the source's path relative to the root it was found under; `num_frames`, `fps` (1/s), `duration`
    (s), `height` and `width` (px) are measured by decoding, of what is stored. `fps` and `duration` are null when the
    file's timestamps do not tell. `video` holds a path and/or bytes, `frames` JPEG bytes in display order, upright.
    `packet_index` goes with `video`, and is null where the file has to be decoded from its start. `frame_times` (s since
    frame 0, one per frame) is null where the frames follow one another at `fps`.
    A row that is a part of its file says so with `first_frame`, the index in that file of its frame 0, and with `start`
    and `end` (s) where the layout gave them. `fold` is there in place of splits.
    """
    # Here, because each process that decodes reads the names above, and starts in a third of the time without this.
    from datasets import ClassLabel, Features, List, Value, Video

    label: dict[str, Any] = {"label": ClassLabel(names=labels)}
    if multi_label:
        label = {"labels": List(ClassLabel(names=labels))}
    columns = {
        "video_id": Value("string"),
        **label,
        "group": Value("string"),
        STORE_COLUMN[store]: List(Value("binary")) if store == "frames" else Video(decode=False),
        "num_frames": Value("int32"),
        "fps": Value("float32"),
        "duration": Value("float32"),
        "height": Value("int32"),
        "width": Value("int32"),
        FRAME_TIMES: List(Value("float32")),
    }
    if store != "frames":
        columns[PACKET_INDEX] = Value("binary")
    if spans:
        columns |= {"first_frame": Value("int32"), "start": Value("float32"), "end": Value("float32")}
    if folds:
        columns["fold"] = Value("int32")
    return Features(columns)
