"""The images of a folder that are the frames of its video: one numbered series, where others lie beside it."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data_prep.limits import VideoError

IMAGE_EXTENSIONS = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".webp"])  # compared in lower case
_JPEG = (".jpg", ".jpeg")
# In the names of what a camera took, and of what was computed from it or taken by another kind of sensor.
_PICTURES = frozenset(
    """
    img image images im frame frames rgb color colour pic pics picture pictures photo photos
    """.split()
)
_BESIDE = frozenset(
    """
    flow flows flowx flowy optflow opticalflow optical depth depths disp disparity mask masks seg segm
    segmentation semantic instance label labels annotation annotations matte alpha normal normals thumb thumbs
    thumbnail thumbnails preview infrared thermal heatmap heatmaps edge edges
    """.split()
)
_PAIRS = ({"x", "y"}, {"u", "v"})  # the two directions of optical flow
_MOST_SHOWN = 6
_DIGITS = re.compile(r"(\d+)")
_CAMERA = r"(?<![a-z])(?:cam|camera|view|kinect|sensor|device)[ _-]*\d+"


@dataclass(frozen=True)
class Series:
    """The frames of a folder, in the order of their numbers; `pattern` and `left_out` name series as img_*.jpg."""

    names: list[str]
    pattern: str
    left_out: tuple[str, ...] = ()


def natural_order(name: str) -> list[int | str]:
    """A sort key with numbers by value, so that frame10 follows frame9: ["frame", 10, ".png"]."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d{1,18})", name)]


def is_numbered_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS and re.search(r"\d", name) is not None


def choose_series(images: Iterable[str]) -> Series:
    """The frames among the names of a folder's images. Raises `VideoError` where the names do not tell them.

    Two series are told apart by the numbers that both have. Frames whose names differ otherwise, as by a time or by the
    part of a video, are one series.
    """
    names = sorted(images, key=natural_order)
    numbered = [name for name in names if is_numbered_image(name)]
    if len(numbered) < 2:
        return Series(names, "")
    without_number = tuple(name for name in names if not is_numbered_image(name))
    if _differ_by_their_numbers_alone(numbered):
        return Series(numbered, _shown(numbered[:1]), without_number)
    series: dict[str, list[str]] = defaultdict(list)
    for name in numbered:
        series[_skeleton(name)].append(name)
    kept = _without_what_lies_beside(list(series))
    if _share_numbers([name for key in kept for name in series[key]]):
        kept = _pictures_alone(kept, series)
    chosen, twins = _of_one_format([name for key in kept for name in series[key]])
    left_out = [series[key] for key in series if key not in kept] + ([twins] if twins else [])
    shown = tuple(_shown(group) for group in left_out) + without_number
    return Series(sorted(chosen, key=natural_order), _shown(chosen), shown)


def pictures_first(folders: Sequence[str]) -> tuple[list[str], list[str]]:
    """Folders of frames, and apart from them those as flow_x or mask that lie beside one as img or rgb."""
    siblings: dict[str, list[str]] = defaultdict(list)
    for folder in folders:
        siblings[os.path.dirname(folder)].append(folder)
    other = _BESIDE.union(*_PAIRS)
    beside: set[str] = set()
    for group in siblings.values():
        names = {folder: os.path.basename(folder) for folder in group}  # with a number they are videos: mask_1
        words = {folder: _words(name) for folder, name in names.items() if not re.search(r"\d", name)}
        if any(found and found <= _PICTURES for found in words.values()):
            beside |= {folder for folder, found in words.items() if found and found <= other}
    return [folder for folder in folders if folder not in beside], [folder for folder in folders if folder in beside]


def _differ_by_their_numbers_alone(names: list[str]) -> bool:
    """Return True for most folders of frames, which are listed again for every clip: for speed."""
    if re.search(_CAMERA, names[0].casefold()):
        return False
    parts = [_DIGITS.split(name) for name in names]  # text, number, text, and so on
    same_text = all(one[::2] == parts[0][::2] for one in parts)
    return same_text and len({tuple(map(int, one[1::2])) for one in parts}) == len(names)


def _skeleton(name: str) -> str:
    """A name without its numbers and extension: "img_*". The number of a camera stays, which counts no frames."""
    stem = os.path.splitext(name)[0].casefold()
    parts = re.split(rf"({_CAMERA})", stem)
    return "".join(part if at % 2 else re.sub(r"\d+", "*", part) for at, part in enumerate(parts))


def _numbers(name: str) -> tuple[int, ...]:
    stem = re.sub(_CAMERA, "", os.path.splitext(name)[0].casefold())
    return tuple(int(digits) for digits in re.findall(r"\d{1,18}", stem))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", text.casefold()))


def _share_numbers(names: list[str]) -> bool:
    return len({_numbers(name) for name in names}) < len(names)


def _without_what_lies_beside(keys: list[str]) -> list[str]:
    """The series that are not named as flow, masks and their like; all, where each is."""
    words = {key: _words(key) for key in keys}
    other = set(_BESIDE).union(*(pair for pair in _PAIRS if pair <= set().union(*words.values())))
    return [key for key in keys if not words[key] & other] or keys


def _pictures_alone(keys: list[str], series: dict[str, list[str]]) -> list[str]:
    """The one series that is named like pictures, or by a number alone. Raises `VideoError` where that is not one."""
    if len(keys) == 1:
        return keys
    words = {key: _words(key) for key in keys}
    named = [key for key in keys if words[key] & _PICTURES] or [key for key in keys if not words[key]]
    if len(named) != 1:
        shown = ", ".join(sorted(_shown(series[key]) for key in keys)[:_MOST_SHOWN])
        raise VideoError(f"holds several series of images with the same numbers ({shown}), and their names do not tell which is the video: leave one in the folder, or name it img_*")  # fmt: skip
    return named


def _of_one_format(names: list[str]) -> tuple[list[str], list[str]]:
    """Frames, and apart from them the images of the same numbers in another format: JPEG is taken where it has all."""
    if not _share_numbers(names):
        return names, []
    numbers = {_numbers(name) for name in names}
    by_format: dict[str, list[str]] = defaultdict(list)
    for name in names:
        ending = os.path.splitext(name)[1].lower()
        by_format["jpeg" if ending in _JPEG else ending].append(name)
    for ending in sorted(by_format, key=lambda ending: ending != "jpeg"):
        if {_numbers(name) for name in by_format[ending]} == numbers and not _share_numbers(by_format[ending]):
            return by_format[ending], [name for name in names if name not in set(by_format[ending])]
    shown = ", ".join(names[:2])
    raise VideoError(f"holds images of the same number (as {shown}), and none of their formats has all numbers: leave one image of each number in the folder")  # fmt: skip


def _shown(names: list[str]) -> str:
    """A series as "img_*.jpg"; without the extension where it has several."""
    endings = {os.path.splitext(name)[1].lower() for name in names}
    return _skeleton(names[0]) + (endings.pop() if len(endings) == 1 else ".*")
