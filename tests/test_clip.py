"""finetune.clips.clip and finetune.clips.batch: the store's own frames, the processor's own pixels, augmentation that repeats."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import datasets
import numpy as np
import pytest
import torch
from conftest import blobs
from transformers import TimesformerVideoProcessor

from data_prep import images
from data_prep.errors import UserError
from data_prep.images import encode_jpeg
from data_prep.index import PacketIndex
from data_prep.prepare import main as data_prep
from finetune.clips.batch import Augmentation, ClipTransform, collate, normalise
from finetune.clips.clip import IGNORED, ClipMaker, Clips, Rows, read_clip
from finetune.clips.sampling import Sampling


def processor(**changes: object) -> TimesformerVideoProcessor:
    settings = {
        "size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32},
        "image_mean": [0.45] * 3, "image_std": [0.225] * 3, "do_sample_frames": True, "num_frames": 4,
    }  # fmt: skip
    return TimesformerVideoProcessor(**{**settings, **changes})


def train(transform: ClipTransform, clip: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    top, left, height, width = transform.box((clip.shape[-2], clip.shape[-1]), generator)
    return transform.train(clip[..., top : top + height, left : left + width], generator)


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (33, 90), (240, 320)])
def test_evaluation_gives_the_processors_own_pixels(size: tuple[int, int]) -> None:
    clip = torch.randint(0, 256, (4, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = ClipTransform(processor()).evaluate(clip)
    assert pixels.dtype == torch.uint8
    ours = normalise(pixels, processor())
    frames = clip.permute(0, 2, 3, 1).numpy()
    theirs = processor()(frames, do_sample_frames=True, num_frames=4, return_tensors="pt")["pixel_values"][0]
    assert ours.shape == (4, 3, 32, 32)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_training_without_randomness_gives_the_evaluations_pixels() -> None:
    """One normalisation for both: with the jitter at the processor's size and no room to crop, they agree."""
    square = processor(size={"shortest_edge": 32})
    clip = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    transform = ClipTransform(square, Augmentation((32, 32), flip=False))
    trained, evaluated = train(transform, clip, torch.Generator()), transform.evaluate(clip)
    assert (trained.int() - evaluated.int()).abs().max() <= 1


def test_all_frames_of_a_clip_are_augmented_alike() -> None:
    frame = torch.randint(0, 256, (1, 3, 60, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip = train(ClipTransform(processor()), frame.expand(4, -1, -1, -1), torch.Generator().manual_seed(1))
    assert all(torch.equal(clip[0], other) for other in clip)


def test_flip_happens_half_the_time_and_never_with_no_flip() -> None:
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8).expand(2, 3, 64, 64)
    generator = torch.Generator().manual_seed(0)
    for flip, expected in ((True, (60, 140)), (False, (0, 0))):
        transform = ClipTransform(processor(), Augmentation(flip=flip))
        flipped = sum(
            bool(clip[0, 0, 0, 0] > clip[0, 0, 0, -1])
            for clip in (train(transform, ramp, generator) for _ in range(200))
        )
        assert expected[0] <= flipped <= expected[1]


def test_default_jitter_is_the_authors_in_proportion() -> None:
    assert ClipTransform(processor(crop_size={"height": 224, "width": 224})).short_side_jitter == (256, 320)
    assert ClipTransform(processor(crop_size={"height": 112, "width": 112})).short_side_jitter == (128, 160)


def test_a_training_clip_is_a_function_of_seed_epoch_and_video(bars_dataset: Path) -> None:
    rows = datasets.load_from_disk(str(bars_dataset))["train"]

    def clip(seed: int, epoch: int, index: int) -> torch.Tensor:
        clips = Clips(rows, ClipMaker(4, ClipTransform(processor())), training=True, seed=seed)
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
    clips = Clips(rows, ClipMaker(4, ClipTransform(processor())), training=True)
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


def test_jpegs_decode_to_the_same_pixels_with_and_without_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [encode_jpeg(blobs("a", 2, 96)[i]) for i in range(2)]
    fast = images.decode_jpegs(frames)
    monkeypatch.setattr(images, "simplejpeg", None)
    np.testing.assert_array_equal(images.decode_jpegs(frames), fast)


def test_stored_frames_are_untrusted(bars_dataset: Path) -> None:
    row = {"video_id": "x", "frames": [encode_jpeg(np.zeros((8, 8, 3), np.uint8))] * 3}
    huge = bytearray(row["frames"][0])
    at = huge.index(b"\xff\xc0")
    huge[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    for bad in (
        b"",
        b"\xff\xd8",
        b"GIF89a",
        bytes(huge),
        row["frames"][0][:200],
        encode_jpeg(np.zeros((8, 16, 3), np.uint8)),
    ):
        with pytest.raises(UserError, match="video 'x'"):
            read_clip({**row, "frames": [row["frames"][0], bad]}, [0, 1])


def test_the_store_of_clips_is_read_by_its_index(bars: Path, tmp_path: Path) -> None:
    data_prep([str(bars), str(tmp_path / "out"), "--store", "clips", "--num_proc", "1", "--no_duplicates"])
    rows = Rows(datasets.load_from_disk(str(tmp_path / "out"))["train"])
    row = rows[0]
    index = PacketIndex.from_bytes(row["packet_index"])
    assert index is not None and index.num_frames == row["num_frames"]
    without = read_clip({**row, "packet_index": None}, [1, 5, 9])
    assert torch.equal(read_clip(row, [1, 5, 9]), without)


def test_uneven_times_reach_the_clip(tmp_path: Path) -> None:
    """A film at 10 frames a second, then at 2: sampled by time, most frames come from its slow half."""
    frames = blobs("x", 20)
    for name in ("a", "b"):
        path = tmp_path / "videos" / name / "0.mp4"
        path.parent.mkdir(parents=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=100)
            stream.height, stream.width, stream.pix_fmt = 48, 48, "yuv420p"
            for number, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = 10 * number if number < 10 else 100 + 50 * (number - 10)
                frame.time_base = Fraction(1, 100)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    data_prep(
        [
            str(tmp_path / "videos"),
            str(tmp_path / "out"),
            "--num_proc",
            "1",
            "--splits",
            "1",
            "0",
            "0",
            "--no_duplicates",
        ]
    )
    row = Rows(datasets.load_from_disk(str(tmp_path / "out"))["train"])[0]
    assert row["frame_times"][9:12] == pytest.approx([0.9, 1.0, 1.5])
    maker = ClipMaker(4, ClipTransform(processor()), Sampling("uniform", target_fps=10))
    assert maker.evaluated(row) == [0, 10, 13, 16]


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(crop_scale=(0.3, 1.0)), Augmentation(color_jitter=0.4), Augmentation(auto_augment="randaugment"),
        Augmentation(auto_augment="trivialaugment"), Augmentation(random_erasing=1.0),
    ],
)  # fmt: skip
def test_every_augmentation_is_uint8_alike_for_all_frames_and_repeats(augmentation: Augmentation) -> None:
    frame = torch.from_numpy(blobs("x", 1, 64)).permute(0, 3, 1, 2).contiguous()
    transform = ClipTransform(processor(), augmentation)
    changed = set()
    for seed in range(8):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        clip = train(transform, frame.expand(4, -1, -1, -1), torch.Generator().manual_seed(seed))
        assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
        assert clip.dtype == torch.uint8 and clip.shape == (4, 3, 32, 32)
        assert all(torch.equal(clip[0], other) for other in clip)
        assert torch.equal(clip, train(transform, frame.expand(4, -1, -1, -1), torch.Generator().manual_seed(seed)))
        changed.add(clip[0].numpy().tobytes())
    assert len(changed) > 6


def test_batches_are_uint8_and_keep_their_values() -> None:
    clips = [torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8) for _ in range(3)]
    batch = collate([{"pixel_values": clip, "labels": 1} for clip in clips])
    assert batch["pixel_values"].dtype == torch.uint8 and set(batch) == {"pixel_values", "labels"}
    assert torch.equal(batch["pixel_values"], torch.stack(clips))


def test_a_bad_video_may_be_skipped_and_is_never_replaced(bars_dataset: Path) -> None:
    row = datasets.load_from_disk(str(bars_dataset))["train"][0]
    row["video"] = {"bytes": None, "path": row["video"]["path"] + ".gone"}
    sample = ClipMaker(4, ClipTransform(processor()), on_bad_video="skip").evaluation(row)
    batch = collate([sample, sample])
    assert batch["labels"].tolist() == [IGNORED, IGNORED] and not batch["pixel_values"].any()
    assert batch["unreadable"][0][0] == row["video_id"] and "No such file" in batch["unreadable"][0][1]
