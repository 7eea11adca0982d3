"""finetune.clip and finetune.batch: the right frames, the processor's own pixels, augmentation that repeats."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers import TimesformerVideoProcessor

from data_prep.errors import UserError
from data_prep.prepare import main as data_prep
from finetune.batch import ClipTransform, collate
from finetune.clip import Clips, random_indices, read_clip, uniform_indices


def processor(**changes: object) -> TimesformerVideoProcessor:
    settings = {
        "size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32},
        "image_mean": [0.45] * 3, "image_std": [0.225] * 3, "do_sample_frames": True, "num_frames": 4,
    }  # fmt: skip
    return TimesformerVideoProcessor(**{**settings, **changes})


@pytest.mark.parametrize("video_frames", [8, 9, 15, 16, 100, 101, 3001])
def test_uniform_frames_are_those_of_transformers_pipeline(video_frames: int) -> None:
    """The processor samples for the pipeline: a model must see there what it saw here."""
    video = np.arange(video_frames, dtype=np.int64)
    metadata = type("Metadata", (), {"total_num_frames": video_frames, "fps": None})
    expected = video[processor().sample_frames(metadata=metadata, num_frames=8)]
    assert uniform_indices(video_frames, 8) == expected.tolist()


def test_short_videos_repeat_their_last_frame() -> None:
    assert uniform_indices(3, 5) == [0, 1, 2, 2, 2]
    assert random_indices(3, 5, torch.Generator()) == [0, 1, 2, 2, 2]


def test_random_frames_cover_each_segment_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = np.array([random_indices(11, 4, generator) for _ in range(500)])
    assert [sorted(set(column)) for column in drawn.T.tolist()] == [[0, 1], [2, 3, 4], [5, 6, 7], [8, 9, 10]]


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (33, 90), (240, 320)])
def test_evaluation_gives_the_processors_own_pixels(size: tuple[int, int]) -> None:
    clip = torch.randint(0, 256, (4, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = ClipTransform(processor()).evaluate(clip)
    frames = clip.permute(0, 2, 3, 1).numpy()
    theirs = processor()(frames, do_sample_frames=True, num_frames=4, return_tensors="pt")["pixel_values"][0]
    assert ours.shape == (4, 3, 32, 32)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_training_without_randomness_gives_the_evaluations_pixels() -> None:
    """One normalisation for both: with the jitter at the processor's size and no room to crop, they agree."""
    square = processor(size={"shortest_edge": 32})
    clip = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    transform = ClipTransform(square, short_side_jitter=[32, 32], flip=False)
    torch.testing.assert_close(
        transform.train(clip, torch.Generator()), transform.evaluate(clip), rtol=0, atol=1.5 / 255 / 0.225
    )


def test_all_frames_of_a_clip_are_augmented_alike() -> None:
    frame = torch.randint(0, 256, (1, 3, 60, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip = ClipTransform(processor()).train(frame.expand(4, -1, -1, -1), torch.Generator().manual_seed(1))
    assert all(torch.equal(clip[0], other) for other in clip)


def test_flip_happens_half_the_time_and_never_with_no_flip() -> None:
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8).expand(2, 3, 64, 64)
    generator = torch.Generator().manual_seed(0)
    for flip, expected in ((True, (60, 140)), (False, (0, 0))):
        transform = ClipTransform(processor(), flip=flip)
        flipped = sum(
            bool(clip[0, 0, 0, 0] > clip[0, 0, 0, -1])
            for clip in (transform.train(ramp, generator) for _ in range(200))
        )
        assert expected[0] <= flipped <= expected[1]


def test_default_jitter_is_the_authors_in_proportion() -> None:
    assert ClipTransform(processor(crop_size={"height": 224, "width": 224})).short_side_jitter == [256, 320]
    assert ClipTransform(processor(crop_size={"height": 112, "width": 112})).short_side_jitter == [128, 160]


def test_a_training_clip_is_a_function_of_seed_epoch_and_video(bars_dataset: Path) -> None:
    rows = datasets.load_from_disk(str(bars_dataset))["train"]

    def clip(seed: int, epoch: int, index: int) -> torch.Tensor:
        clips = Clips(rows, 4, ClipTransform(processor()), training=True, seed=seed)
        clips.set_epoch(epoch)
        return clips[index]["pixel_values"]

    torch.manual_seed(1)
    first = clip(0, 0, 0)
    torch.manual_seed(2)
    assert torch.equal(first, clip(0, 0, 0))
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert not torch.equal(first, clip(*other))


def test_workers_see_the_epoch_and_give_the_same_clips(bars_dataset: Path) -> None:
    rows = datasets.load_from_disk(str(bars_dataset))["train"]
    clips = Clips(rows, 4, ClipTransform(processor()), training=True)
    loader = torch.utils.data.DataLoader(
        clips, batch_size=4, num_workers=1, persistent_workers=True, collate_fn=collate
    )
    for epoch in (0, 1):
        clips.set_epoch(epoch)
        batches = list(loader)
        assert torch.equal(batches[0]["pixel_values"][1], clips[1]["pixel_values"])
    assert batches[0]["pixel_values"].shape == (4, 4, 3, 32, 32)
    assert batches[0]["labels"].dtype == torch.int64


def test_the_store_of_frames_gives_the_same_clip_up_to_jpeg(bars: Path, bars_dataset: Path, tmp_path: Path) -> None:
    data_prep(
        [
            str(bars),
            str(tmp_path / "out"),
            "--splits",
            "0.6",
            "0.2",
            "0.2",
            "--seed",
            "3",
            "--store",
            "frames",
            "--num_proc",
            "1",
        ]
    )
    files = datasets.load_from_disk(str(bars_dataset))["test"]
    frames = datasets.load_from_disk(str(tmp_path / "out"))["test"]
    assert files["video_id"] == frames["video_id"]
    from_file, from_frames = (read_clip(rows[0], [0, 4, 4, 9]) for rows in (files, frames))
    assert from_file.shape == from_frames.shape == (4, 3, 48, 48)
    assert (from_file.float() - from_frames.float()).abs().mean() < 4


def test_a_video_that_vanished_stops_the_run_with_its_name(bars_dataset: Path) -> None:
    row = datasets.load_from_disk(str(bars_dataset))["train"][0]
    row["video"] = {"bytes": None, "path": row["video"]["path"] + ".gone"}
    with pytest.raises(UserError, match=f"video '{row['video_id']}' cannot be read: No such file"):
        read_clip(row, [0])
