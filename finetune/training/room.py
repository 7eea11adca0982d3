"""Checks before a run that the disk holds its checkpoints, and shared memory the batches that are read ahead."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

from data_prep.errors import UserError

_SHARED_MEMORY = Path("/dev/shm")
_STATES = {"adam": 2, "sgd": 1}  # numbers that an optimizer keeps for each weight, by the beginning of its name
PREFETCHED = 2  # batches of each process that reads, where nothing else is said


def check_room(trainer: Any, num_views: int) -> None:
    """Raises `UserError` where training, or its last evaluation with so many views, would end for want of disk or memory."""
    args = trainer.args
    batches = [(args.per_device_train_batch_size, _how_many(trainer.train_dataset))]
    if trainer.eval_dataset is not None:
        batches.append((args.per_device_eval_batch_size, _how_many(trainer.eval_dataset)))
    ahead = args.dataloader_num_workers * (args.dataloader_prefetch_factor or PREFETCHED)
    clips = sum(size * min(ahead, num_clips / size) for size, num_clips in batches)
    clips = max(clips, ahead * num_views)
    flags = "--dataloader_num_workers, --per_device_train_batch_size, --per_device_eval_batch_size"
    check_shared_memory(clips, trainer.model.config.num_frames, trainer.processing_class.crop_size, flags)
    if args.should_save:
        _check_disk(Path(args.output_dir), *_checkpoints(trainer))


def _how_many(clips: Any) -> float:
    """Return the number of clips; for a stream infinity, since it never runs out."""
    return len(clips) if hasattr(clips, "__len__") else math.inf


def check_shared_memory(num_clips: float, num_frames: int, crop: dict[str, int], flags: str) -> None:
    """Raises `UserError` where so many uint8 clips, which processes read ahead, do not fit into shared memory."""
    needed = num_clips * num_frames * 3 * crop["height"] * crop["width"] * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        free = shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:  # a system that has no such folder
        return
    if needed > free:
        raise UserError(
            f"the batches that are read ahead take {_in_words(needed)} of shared memory ({_SHARED_MEMORY}), where {_in_words(free)} are free. In a "
            f"container give it more (docker run --shm-size=8g), or make fewer or smaller batches ({flags})."
        )


def _checkpoints(trainer: Any) -> tuple[int, float, float]:
    """Return the largest number of checkpoints on the disk at a time, and the bytes of one and of the model."""
    args, parameters = trainer.args, list(trainer.model.parameters())
    states = next((number for name, number in _STATES.items() if args.optim.startswith(name) and "bit" not in args.optim), 0)  # fmt: skip
    model = sum(weight.numel() * weight.element_size() for weight in parameters)
    learnt = sum(weight.numel() * weight.element_size() for weight in parameters if weight.requires_grad)
    weights = learnt if trainer.learning.lora_rank else model
    checkpoint = weights * (2 if trainer.learning.ema_decay else 1) + states * learnt
    steps, of_an_epoch = trainer.planned_steps({})
    if args.save_strategy == "steps":
        saves = steps / (args.save_steps if args.save_steps >= 1 else max(1, math.ceil(args.save_steps * steps)))
    else:
        saves = {"no": 0, "best": 1}.get(str(args.save_strategy.value), steps / of_an_epoch)
    if trainer.learning.linear_probe:
        saves = 0
    limit = math.inf if args.save_total_limit is None else args.save_total_limit + 2  # the best, and one being written
    return int(min(math.ceil(saves), limit)), checkpoint, model


def _check_disk(output_dir: Path, number: int, checkpoint: float, model: float) -> None:
    """Raises `UserError` where the disk is too small; what lies in `output_dir` makes room as it is replaced."""
    place = next(folder for folder in (output_dir.absolute(), *output_dir.absolute().parents) if folder.is_dir())
    held = sum(path.lstat().st_size for path in output_dir.rglob("*") if path.is_file())
    free, needed = shutil.disk_usage(place).free + held, number * checkpoint + model
    if needed > free:
        raise UserError(
            f"--output_dir {output_dir}: the run takes up to {_in_words(needed)} ({number} checkpoints of {_in_words(checkpoint)} and the model), and "
            f"{_in_words(free)} are free there. Give another --output_dir, or keep fewer checkpoints (--save_total_limit, --save_strategy no)."
        )


def _in_words(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
