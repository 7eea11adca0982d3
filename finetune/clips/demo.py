"""The embedded demonstration: its videos, made and prepared as a user's would be."""

from __future__ import annotations

from pathlib import Path

from data_prep.demo import CLASSES, write_demo_videos
from data_prep.errors import UserError
from data_prep.lock import one_after_the_other
from data_prep.store import whole_directory
from finetune.clips.dataset import run_data_prep


def prepare_demo(dataset: Path, videos_per_class: int) -> Path:
    """Writes the videos beside `dataset` and runs data_prep on them. Returns the folder of videos."""
    videos = dataset.with_name(f"{dataset.name}_videos")
    with one_after_the_other(videos):
        return _prepared(dataset, videos, videos_per_class)


def _prepared(dataset: Path, videos: Path, videos_per_class: int) -> Path:
    if not videos.exists():
        with whole_directory(videos) as folder:
            write_demo_videos(folder, videos_per_class, seed=0)
    num_videos = sum(1 for _ in videos.glob("*/*.mp4"))
    if num_videos != videos_per_class * len(CLASSES):
        raise UserError(f"{videos} holds {num_videos} videos, expected {videos_per_class} of each of the {len(CLASSES)} classes: delete it.")  # fmt: skip
    print(f"$ python -m data_prep {videos} {dataset} --overwrite", flush=True)
    run_data_prep([str(videos), str(dataset), "--overwrite"])
    return videos
