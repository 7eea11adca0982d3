"""The frames of a clip, read from whichever store holds them, and the datasets of clips that a Trainer takes."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from data_prep.errors import UserError
from data_prep.frame import Window
from data_prep.images import decode_jpegs
from data_prep.index import PacketIndex
from data_prep.limits import VideoError
from data_prep.schema import FRAME_TIMES, PACKET_INDEX
from data_prep.video import read_frames
from finetune.clips.batch import ClipTransform
from finetune.clips.sampling import Sampling
from finetune.clips.watch import Watch, outlive_one_sigterm

OnBadVideo = Literal["stop", "skip"]

IGNORED = -100  # the label of a video that could not be read: torch's cross-entropy passes over it


def read_clip(
    row: dict[str, Any], indices: list[int], short_side: int | None = None, window: Window | None = None
) -> torch.Tensor:
    """Frames at `indices` of one dataset row: uint8 RGB `(num_frames, 3, height, width)`, upright.

    Files larger than a `short_side` (px) are scaled down to it on the way; `window` says which part of the frames is
    kept. Raises `UserError` with the video's name when it cannot be read any more.
    """
    try:
        if row.get("frames") is not None:
            wanted = sorted(set(indices))
            frames = decode_jpegs([row["frames"][i] for i in wanted], window)
            if wanted != indices:
                frames = frames[[wanted.index(i) for i in indices]]
            return torch.from_numpy(frames).permute(0, 3, 1, 2)
        video = row["video"]
        first = row.get("first_frame") or 0  # of a row that is a part of its file
        source = video["bytes"] if video["bytes"] is not None else video["path"]
        packed = row.get(PACKET_INDEX)
        index = PacketIndex.from_bytes(packed) if packed is not None else None
        frames = read_frames(source, [first + i for i in indices], index, short_side, window)
    except VideoError as error:
        raise UserError(
            f"video {row['video_id']!r} {error}, though it was readable when the dataset was prepared. "
            "Restore it, run data_prep again, or pass --on_bad_video skip."
        ) from error
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


class Rows:
    """Rows of a `datasets.Dataset` as dicts; of stored frames only those that are asked for become Python's bytes."""

    def __init__(self, rows: Any):
        self._rows = rows.with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        outlive_one_sigterm()
        return row_of(self._rows[int(index)], 0)


def row_of(table: Any, at: int) -> dict[str, Any]:
    """Row `at` of an Arrow table as a dict; `frames` gives the bytes of a frame when it is asked for it."""
    cells = {name: table.column(name)[at] for name in table.column_names}
    return {name: _LAZY.get(name, _value)(cell) for name, cell in cells.items()}


def _value(cell: Any) -> Any:
    return cell.as_py()


def _video(cell: Any) -> dict[str, Any]:
    """`bytes` as Arrow holds them, without a copy."""
    data = cell["bytes"].as_buffer() if cell.is_valid else None
    return {
        "bytes": None if data is None else memoryview(data),
        "path": cell["path"].as_py() if cell.is_valid else None,
    }


class _Frames:
    def __init__(self, cell: Any):
        self._frames = cell.values

    def __getitem__(self, index: int) -> bytes:
        if self._frames is None or not 0 <= index < len(self._frames):
            raise VideoError(f"has no frame {index}")
        data: bytes = self._frames[index].as_py()
        return data


_LAZY = {"frames": _Frames, "video": _video}


@dataclass(frozen=True)
class ClipMaker:
    """Rows -> `pixel_values` uint8 `(num_frames, 3, crop, crop)` and `labels`.

    Of rows with several labels (`labels`, ids), these are float32 `(num_labels,)` of 0 and 1, or all `IGNORED`.
    """

    num_frames: int
    transform: ClipTransform
    sampling: Sampling = field(default_factory=Sampling)
    on_bad_video: OnBadVideo = "stop"
    watch: Watch | None = None
    num_labels: int = 0  # needed for rows with several labels

    def training(self, row: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """A random clip: a function of the row and the generator."""
        indices = self.sampling.training(self._frames(row), self.num_frames, generator)
        window = functools.partial(self.transform.box, generator=generator)
        clip = self._read(row, indices, self.transform.source_short_side, window)
        return self._sample(row, clip if isinstance(clip, str) else self.transform.train(clip, generator))

    def evaluation(self, row: dict[str, Any]) -> dict[str, Any]:
        """The clip that a model trained with this sampling is shown."""
        clip = self._read(row, self.evaluated(row))
        return self._sample(row, clip if isinstance(clip, str) else self.transform.evaluate(clip))

    def evaluation_clips(self, row: dict[str, Any], num_clips: int) -> list[torch.Tensor] | str:
        """The frames of `num_clips` clips, each uint8 `(num_frames, 3, height, width)`, or why there are none."""
        clips = self.sampling.evaluation(self._frames(row), self.num_frames, num_clips)
        wanted = sorted({number for clip in clips for number in clip})
        frames = self._read(row, wanted)
        if isinstance(frames, str):
            return frames
        at = {number: position for position, number in enumerate(wanted)}
        return [frames[[at[number] for number in clip]] for clip in clips]

    def evaluated(self, row: dict[str, Any]) -> list[int]:
        """Frame numbers of the clip of `evaluation`."""
        return self.sampling.evaluation(self._frames(row), self.num_frames)[0]

    def _frames(self, row: dict[str, Any]) -> Any:
        try:
            return self.sampling.frames(row["num_frames"], row.get("fps"), row.get(FRAME_TIMES))
        except ValueError as error:
            raise UserError(f"--target_fps: video {row['video_id']!r}: {error}. Leave --target_fps out.") from error

    def _read(
        self, row: dict[str, Any], indices: list[int], short_side: int | None = None, window: Window | None = None
    ) -> torch.Tensor | str:
        """The clip, or why there is none where bad videos are skipped."""
        if self.watch is not None:
            self.watch.begin(row["video_id"])
        try:
            return read_clip(row, indices, short_side, window)
        except UserError as error:
            if self.on_bad_video == "stop":
                raise
            return str(error)

    def _sample(self, row: dict[str, Any], clip: torch.Tensor | str) -> dict[str, Any]:
        if not isinstance(clip, str):
            return {"pixel_values": clip, "labels": self._labels(row)}
        # Its place in the batch stays, without a say in the loss: no other video comes instead.
        nothing = torch.zeros((self.num_frames, 3, *self.transform.crop), dtype=torch.uint8)
        ignored = torch.full_like(self._labels(row), IGNORED) if "labels" in row else IGNORED
        return {"pixel_values": nothing, "labels": ignored, "unreadable": (row["video_id"], clip)}

    def _labels(self, row: dict[str, Any]) -> Any:
        if "labels" not in row:
            return row["label"]
        present = torch.zeros(self.num_labels)
        present[row["labels"]] = 1
        return present


class Clips(Dataset):
    """One clip of each video of a split, made by a `ClipMaker`.

    In training, frames and augmentation are a function of (seed, epoch, index) alone: workers, their number and
    resuming do not change them. Indices from the number of videos on are further clips of the same videos.
    """

    def __init__(self, rows: Any, maker: ClipMaker, training: bool, seed: int = 0):
        self.rows, self.maker, self.training, self.seed = Rows(rows), maker, training, seed
        self._table = rows
        # Shared memory, because accelerate does not pass the epoch on to workers that persist or to a resumed epoch.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def labels(self) -> list[int]:
        """Of every video, in order."""
        return list(self._table["label"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[int(index) % len(self.rows)]
        if not self.training:
            return self.maker.evaluation(row)
        return self.maker.training(row, generator_for(self.seed, int(self._epoch), int(index)))


def generator_for(*numbers: int) -> torch.Generator:
    """A generator that any process makes the same from the same numbers."""
    seeds = np.random.SeedSequence(numbers)
    return torch.Generator().manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))
