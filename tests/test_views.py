"""finetune.clips.views: what evaluation sees of a video."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
import torch
from conftest import encode, gray_ramp
from test_clip import processor

from data_prep.errors import UserError
from data_prep.prepare import main as data_prep
from finetune.clips.batch import ClipTransform
from finetune.clips.clip import ClipMaker, Rows
from finetune.clips.sampling import Sampling
from finetune.clips.views import VideoViews, Views, read_views, spatial_crops


def test_the_fields_notation() -> None:
    assert Views.parse("10x3") == Views(10, 3) and str(Views(10, 3)) == "10x3" and len(Views(10, 3)) == 30
    for nonsense in ("3", "0x1", "1x2", "-1x1", "1x3x3", "1×3", "ax1", "99999x1"):
        with pytest.raises(UserError, match="expected"):
            Views.parse(nonsense)


def test_three_crops_are_the_ends_and_the_middle_of_the_long_side() -> None:
    """Each column of the picture has its own grey: which columns a crop holds can be read off it."""
    ramp = torch.arange(0, 96, dtype=torch.uint8).expand(2, 3, 32, 96).contiguous()
    wide = spatial_crops(ramp, ClipTransform(processor()), 3)
    assert wide.shape == (3, 2, 3, 32, 32) and wide.dtype == torch.uint8
    for crop, first in zip(wide, (0, 32, 64)):
        assert torch.equal(crop, ramp[..., first : first + 32])
    tall = spatial_crops(ramp.transpose(-1, -2).contiguous(), ClipTransform(processor()), 3)
    assert torch.equal(tall, wide.transpose(-1, -2))


@pytest.mark.parametrize("size", [(64, 64), (45, 91), (240, 100)])
@pytest.mark.parametrize("crop", [(32, 32), (24, 40)])
def test_three_crops_see_the_whole_frame_up_to_where_they_meet(size: tuple[int, int], crop: tuple[int, int]) -> None:
    """The smallest picture that holds the crop: along one side nothing is cut off."""
    transform = ClipTransform(processor(crop_size={"height": crop[0], "width": crop[1]}))
    clip = torch.zeros(1, 3, *size, dtype=torch.uint8)
    marks = ((0, 0), (size[0] - 1, size[1] - 1))
    for y, x in marks:  # large enough not to vanish when the picture shrinks
        clip[..., max(0, y - 15) : y + 16, max(0, x - 15) : x + 16] = 255
    first, middle, last = spatial_crops(clip, transform, 3)
    assert first.shape[-2:] == crop
    assert first[..., 0, 0].min() > 200 and last[..., -1, -1].min() > 200
    assert middle.shape == first.shape


def _maker(**changes: object) -> ClipMaker:
    return ClipMaker(4, ClipTransform(processor()), Sampling(**changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", [{}, {"strategy": "segments"}, {"strategy": "dense", "frame_stride": 2}])
def test_one_view_is_the_clip_of_the_trainers_evaluation(bars_dataset: Path, strategy: dict) -> None:
    row = Rows(datasets.load_from_disk(str(bars_dataset))["test"])[0]
    maker = _maker(**strategy)
    assert torch.equal(read_views(row, maker, Views())[0], maker.evaluation(row)["pixel_values"])


def test_views_are_ordered_in_time_then_space(bars_dataset: Path) -> None:
    row = Rows(datasets.load_from_disk(str(bars_dataset))["test"])[0]
    maker = _maker(strategy="dense", frame_stride=1)
    views = read_views(row, maker, Views(3, 3))
    assert views.shape == (9, 4, 3, 32, 32)
    clips = maker.evaluation_clips(row, 3)
    for number, clip in enumerate(clips):
        assert torch.equal(views[3 * number : 3 * number + 3], spatial_crops(clip, maker.transform, 3))
    assert Views(2, 3).names()[3] == "clip 2 crop 1"


def test_a_video_shorter_than_the_clip_has_all_its_views(tmp_path: Path) -> None:
    for number in range(2):
        encode(tmp_path / "videos" / str(number) / "short.mp4", gray_ramp(3))
    options = ("--num_proc", "1", "--splits", "1", "0", "0", "--no_duplicates")
    data_prep([str(tmp_path / "videos"), str(tmp_path / "out"), *options])
    rows = datasets.load_from_disk(str(tmp_path / "out"))["train"]
    for maker in (_maker(), _maker(strategy="dense", frame_stride=3)):
        item = VideoViews(rows, maker, Views(2, 3))[1]
        assert item["index"] == 1 and item["pixel_values"].shape == (6, 4, 3, 32, 32)
        last_frames = item["pixel_values"][:, 2:].float().mean((2, 3, 4))
        assert (last_frames - 40).abs().max() < 6, "the last frame, which is grey 40, repeats"


def test_a_video_that_is_gone_is_named_and_has_no_views(bars_dataset: Path) -> None:
    row = dict(datasets.load_from_disk(str(bars_dataset))["test"][0])
    row["video"] = {"bytes": None, "path": "gone.mp4"}
    rows = datasets.load_from_disk(str(bars_dataset))["test"].select([0]).map(lambda _: {"video": row["video"]})
    with pytest.raises(UserError, match="cannot be read"):
        VideoViews(rows, _maker(), Views())[0]
    skipping = ClipMaker(4, ClipTransform(processor()), on_bad_video="skip")
    item = VideoViews(rows, skipping, Views())[0]
    assert item["unreadable"][0] == row["video_id"] and not item["pixel_values"].any()
    assert item["pixel_values"].shape == (1, 4, 3, 32, 32)
