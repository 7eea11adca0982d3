"""Every video of a split through the model, all its views, once, on any number of processes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from finetune.clips.batch import normalise
from finetune.clips.views import VideoViews
from finetune.clips.watch import reader_context


@dataclass(frozen=True)
class Scored:
    """logits float64 `(videos, views, classes)`, in the order of the rows; of `unreadable` videos they mean nothing."""

    logits: np.ndarray
    readable: np.ndarray  # bool `(videos,)`
    unreadable: dict[str, str]  # video_id -> reason
    clips_per_second: float | None  # pixels in, logits out, of this process; None where there was not enough to time


@dataclass(frozen=True)
class Scorer:
    """How videos go through the model: `batch_size` clips at a time, read by `num_workers` processes."""

    model: Any
    batch_size: int
    num_workers: int
    device: torch.device

    def score(self, videos: VideoViews) -> Scored:
        """The logits of each video of `videos`, on every process."""
        state = PartialState()
        own = _dealt(len(videos), state.process_index, state.num_processes)
        loader = DataLoader(
            Subset(videos, own), max(1, self.batch_size // len(videos.views)), num_workers=self.num_workers,
            collate_fn=_collate, pin_memory=self.device.type == "cuda",
            multiprocessing_context=reader_context(self.num_workers),
        )  # fmt: skip
        found: list[tuple[int, np.ndarray, Any]] = []
        self.model.eval()
        hidden = None if state.is_main_process else True  # None: shown on terminals
        clips, seconds = 0, 0.0
        for number, batch in enumerate(tqdm(loader, desc="evaluating", unit="batch", disable=hidden)):
            pixels = batch["pixel_values"]
            began = time.monotonic()
            logits = self._logits(pixels.flatten(0, 1), videos).unflatten(0, pixels.shape[:2])
            if number or self.device.type == "cpu":  # an accelerator takes its time to begin
                clips, seconds = clips + pixels.shape[0] * pixels.shape[1], seconds + time.monotonic() - began
            found += zip(batch["index"], logits.double().numpy(), batch["unreadable"])
        return _in_order(gather_object(found), len(videos), clips / seconds if seconds else None)

    @torch.no_grad()
    def _logits(self, clips: torch.Tensor, videos: VideoViews) -> torch.Tensor:
        processor = videos.maker.transform.processor
        parts = [
            self.model(pixel_values=normalise(part.to(self.device, non_blocking=True), processor)).logits
            for part in clips.split(self.batch_size)
        ]
        return torch.cat(parts).float().cpu()


def _collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """`pixel_values` `(videos, views, num_frames, 3, crop, crop)`, and lists of each video's `index` and `unreadable`."""
    return {
        "pixel_values": torch.stack([item["pixel_values"] for item in items]),
        "index": [item["index"] for item in items],
        "unreadable": [item.get("unreadable") for item in items],
    }


def _dealt(num_videos: int, rank: int, num_processes: int) -> list[int]:
    """Every `num_processes`-th video from `rank`; as many on each process, since sharded models compute together.

    What is read a second time for that takes its own place again.

    _dealt(5, 1, 2) == [1, 3, 1]
    """
    most = -(-num_videos // num_processes)
    own = list(range(rank, num_videos, num_processes)) or [0]
    return (own + own[:1])[:most]


def _in_order(found: list[tuple[int, np.ndarray, Any]], num_videos: int, clips_per_second: float | None) -> Scored:
    by_index = {index: (logits, unreadable) for index, logits, unreadable in found}
    reasons = [by_index[index][1] for index in range(num_videos)]
    return Scored(
        np.stack([by_index[index][0] for index in range(num_videos)]),
        np.array([reason is None for reason in reasons]),
        dict(reason for reason in reasons if reason is not None),
        clips_per_second,
    )
