"""The dataset's columns, written once. `data_prep` writes them; `finetune` checks them on arrival."""

from __future__ import annotations

from typing import Literal

from datasets import ClassLabel, Features, List, Value, Video

SPLITS = ("train", "validation", "test")

Store = Literal["files", "frames"]
STORES: tuple[Store, ...] = ("files", "frames")

# One of these columns holds the pictures, by store.
STORE_COLUMN: dict[Store, str] = {"files": "video", "frames": "frames"}

# What training cannot do without, beside the store's column.
REQUIRED_COLUMNS = ("video_id", "label", "num_frames")


def dataset_features(labels: list[str], store: Store) -> Features:
    """Columns and types of every split.

    `video_id` is the source's path relative to the root it was found under; `num_frames`, `fps` (1/s), `duration`
    (s), `height` and `width` (px) are measured by decoding, of what is stored. `fps` and `duration` are null when the
    file's timestamps do not tell. `video` holds a path and/or bytes, `frames` JPEG bytes in display order, upright.
    """
    pictures = Video(decode=False) if store == "files" else List(Value("binary"))
    return Features(
        {
            "video_id": Value("string"),
            "label": ClassLabel(names=labels),
            "group": Value("string"),
            STORE_COLUMN[store]: pictures,
            "num_frames": Value("int32"),
            "fps": Value("float32"),
            "duration": Value("float32"),
            "height": Value("int32"),
            "width": Value("int32"),
        }
    )
