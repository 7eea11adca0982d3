"""What evaluation sees of a video: temporal positions x spatial crops, in the field's notation (`1x3`, `10x3`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch.utils.data import Dataset

from data_prep.errors import UserError
from finetune.clips.batch import ClipTransform
from finetune.clips.clip import ClipMaker, Rows

Average = Literal["logits", "probabilities"]  # of what the mean over the views of a video is taken
AVERAGES: tuple[Average, ...] = get_args(Average)


@dataclass(frozen=True)
class Views:
    """`num_temporal` clips of a video, and of each `num_spatial` crops: 1 (the centre), or 3 along the long side.

    Views.parse("10x3") == Views(10, 3)
    """

    num_temporal: int = 1
    num_spatial: int = 1

    def __post_init__(self) -> None:
        if self.num_temporal < 1 or self.num_spatial not in (1, 3):
            raise UserError(f"views are {self}: expected at least 1 clip, and 1 or 3 crops of it, as 1x1, 4x1 or 10x3.")

    @classmethod
    def parse(cls, text: str) -> Views:
        """Raises `UserError`."""
        found = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", text.strip())
        if found is None:
            raise UserError(f"views are {text!r}: expected clips x crops, as 1x1, 1x3, 4x1 or 10x3.")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.num_temporal}x{self.num_spatial}"

    def __len__(self) -> int:
        return self.num_temporal * self.num_spatial

    def names(self) -> list[str]:
        """Of each view, in their order: crops change fastest.

        Views(2, 1).names() == ["clip 1 crop 1", "clip 2 crop 1"]
        """
        return [f"clip {t + 1} crop {s + 1}" for t in range(self.num_temporal) for s in range(self.num_spatial)]

    def in_words(self, crop: tuple[int, int]) -> str:
        """The crops, for a protocol; `crop` is their (height, width) in px."""
        if self.num_spatial == 1:
            return f"one centre crop of {crop[0]}x{crop[1]} px"
        return f"three crops of {crop[0]}x{crop[1]} px along the long side of the smallest picture that holds them"


def spatial_crops(clip: torch.Tensor, transform: ClipTransform, num_spatial: int) -> torch.Tensor:
    """uint8 `(num_frames, 3, height, width)` -> uint8 `(num_spatial, num_frames, 3, crop, crop)`.

    One is the processor's own. Three are left, centre and right, or top, centre and bottom, of the frame resized so that
    it just holds the crop, which a square crop fills along the short side: so the three see the whole frame. This is the
    authors' test (facebookresearch/TimeSformer, timesformer/datasets/kinetics.py: min_scale and max_scale are
    TEST_CROP_SIZE), whatever larger short side the processor has for its one centre crop.
    """
    if num_spatial == 1:
        return transform.evaluate(clip)[None]
    height, width = transform.crop
    scale = max(height / clip.shape[-2], width / clip.shape[-1])
    size = {"height": max(height, round(clip.shape[-2] * scale)), "width": max(width, round(clip.shape[-1] * scale))}
    resized = transform.processor(
        clip, size=size, do_center_crop=False, do_sample_frames=False, do_rescale=False, do_normalize=False,
        input_data_format="channels_first", return_tensors="pt",
    )["pixel_values"][0].to(torch.uint8)  # fmt: skip
    spare_height, spare_width = resized.shape[-2] - height, resized.shape[-1] - width
    corners = [(round(spare_height * part), round(spare_width * part)) for part in (0, 0.5, 1)]
    return torch.stack([resized[..., top : top + height, left : left + width] for top, left in corners])


def read_views(row: dict[str, Any], maker: ClipMaker, views: Views) -> torch.Tensor | str:
    """uint8 `(views, num_frames, 3, crop, crop)` of one dataset row, or why there are none where bad videos are skipped.

    Every frame is decoded once. Raises `UserError` for a video that cannot be read, unless they are skipped.
    """
    clips = maker.evaluation_clips(row, views.num_temporal)
    if isinstance(clips, str):
        return clips
    return torch.cat([spatial_crops(clip, maker.transform, views.num_spatial) for clip in clips])


class VideoViews(Dataset):
    """All views of each video, one item a video: `pixel_values` uint8 `(views, num_frames, 3, crop, crop)`, and `index`.

    A video that could not be read, where these are skipped, has `unreadable`, (video_id, reason), and black views.
    """

    def __init__(self, rows: Any, maker: ClipMaker, views: Views):
        self.rows, self.maker, self.views = Rows(rows), maker, views

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[int(index)]
        pixels = read_views(row, self.maker, self.views)
        if isinstance(pixels, str):
            nothing = torch.zeros((len(self.views), self.maker.num_frames, 3, *self.maker.transform.crop), dtype=torch.uint8)  # fmt: skip
            return {"index": int(index), "pixel_values": nothing, "unreadable": (row["video_id"], pixels)}
        return {"index": int(index), "pixel_values": pixels}
