"""Which frames make a clip (pure functions of numbers), then those frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from data_prep.errors import UserError
from data_prep.images import decode_jpeg
from data_prep.limits import VideoError
from data_prep.video import read_frames
from finetune.batch import ClipTransform

SAMPLING = "uniform"  # the strategy's name in the checkpoint's config


def uniform_indices(video_frames: int, num_frames: int) -> list[int]:
    """First frame of each of `num_frames` equal segments of the whole video, as transformers' pipeline takes them.

    A video shorter than the clip repeats its last frame, as the authors' code does.

    uniform_indices(100, 4) == [0, 25, 50, 75]
    uniform_indices(3, 5) == [0, 1, 2, 2, 2]
    """
    if video_frames < num_frames:
        return [min(i, video_frames - 1) for i in range(num_frames)]
    return [i * video_frames // num_frames for i in range(num_frames)]


def random_indices(video_frames: int, num_frames: int, generator: torch.Generator) -> list[int]:
    """A random frame of each of `num_frames` equal segments of the whole video (TSN, arXiv 1608.00859, section 3.1).

    The first frame of each segment is what `uniform_indices` gives; short videos are treated as there.
    """
    starts = uniform_indices(video_frames, num_frames)
    if video_frames < num_frames:
        return starts
    ends = [*starts[1:], video_frames]
    return [int(torch.randint(start, end, (1,), generator=generator)) for start, end in zip(starts, ends)]


def read_clip(row: dict[str, Any], indices: list[int]) -> torch.Tensor:
    """Frames at `indices` of one dataset row: uint8 RGB `(num_frames, 3, height, width)`, upright.

    Raises `UserError` with the video's name when it cannot be read any more.
    """
    try:
        if row.get("frames") is not None:
            decoded = {i: decode_jpeg(row["frames"][i]) for i in set(indices)}
            frames = np.stack([decoded[i] for i in indices])
        else:
            video = row["video"]
            first = row.get("first_frame") or 0  # of a row that is a part of its file
            source = video["bytes"] if video["bytes"] is not None else video["path"]
            frames = read_frames(source, [first + i for i in indices])
    except VideoError as error:
        raise UserError(
            f"video {row['video_id']!r} {error}, though it was readable when the dataset was prepared. "
            "Restore it, or run data_prep again."
        ) from error
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


class Clips(Dataset):
    """One clip of each video of a split: `pixel_values` float32 `(num_frames, 3, crop, crop)` and `labels`.

    In training, frames and augmentation are a function of (seed, epoch, index) alone: workers, their number and
    resuming do not change them.
    """

    def __init__(self, rows: Any, num_frames: int, transform: ClipTransform, training: bool, seed: int = 0):
        self.rows, self.num_frames, self.transform = rows, num_frames, transform
        self.training, self.seed = training, seed
        # Shared memory, because accelerate does not pass the epoch on to workers that persist or to a resumed epoch.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[int(index)]
        if not self.training:
            clip = read_clip(row, uniform_indices(row["num_frames"], self.num_frames))
            return {"pixel_values": self.transform.evaluate(clip), "labels": row["label"]}
        seeds = np.random.SeedSequence([self.seed, int(self._epoch), int(index)])
        generator = torch.Generator().manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))
        clip = read_clip(row, random_indices(row["num_frames"], self.num_frames, generator))
        return {"pixel_values": self.transform.train(clip, generator), "labels": row["label"]}
