"""Moving parts of a video before a still background, and how far two videos of one fixed camera differ in them.

A small animal, person or cursor changes a few pixels of a thumbnail; the background, which all clips of the camera share,
fills the others. Each frame's brightness and contrast are fitted to the background first, so that flicker and dusk, which
such clips share too, do not count as motion. A pixel moves where it then differs from its median over time by more than the
noise of its frame. Two videos differ by what moves in one and not, at about the same time, in the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

_FLAT = 4.0  # grey levels of contrast; of a picture with less, the brightness alone can be fitted
# Grey levels; noise of 8 in a video of 180 x 320 px and its encoding gave 0.9, moving cameras 2 and more.
_STILL_NOISE = 1.2
_LEAST, _NOISES = 1.5, 3.0  # grey levels, and times the noise: smaller differences are not motion
_DEAD_ENERGY, _DEAD_AMPLITUDE = 20.0, 3.0  # of what noise and encoding leave now and then; 6 px of 180 made 60 and more
# Grey levels; backgrounds that differ by less need no fit, which costs most of comparing still videos.
_SAME_LIGHT = 0.5
_BRIGHTER, _BRIGHTER_FLAT = 20.0, 1.0  # grey levels, of one background more than the other
# Grey levels, and a share of the contrast, by which half of the pixels of one place may differ. Thrice what
# `is_same_background` allows all of them: this only sorts out other places, which differ by half of the contrast.
_SAME_PLACE, _SAME_PLACE_SHARE = 4.0, 0.1
_LITTLE = 4.0  # squared grey levels per sample and pixel; where more moves, the change of the whole picture tells more
_MOVING, _MOVING_SHARE = 40.0, 0.25  # energy, and its share in that of both videos: enough to tell one from another


@dataclass(frozen=True)
class MovingParts:
    """Thumbnails of a video, float32 `(n, pixels)`, at increasing `seconds` `(n,)`.

    `steady`: in the light of their median over time; `background`: the median of that, `(pixels,)`; `difference`: of the
    two; `noise`: grey levels; `noises`: of each frame, `(n, 1)`.
    """

    seconds: np.ndarray
    steady: np.ndarray
    background: np.ndarray
    difference: np.ndarray
    noise: float
    noises: np.ndarray

    @classmethod
    def of(cls, seconds: np.ndarray, thumbnails: np.ndarray) -> MovingParts:
        background = np.median(thumbnails, axis=0)
        if np.abs(thumbnails - background).max() <= _LEAST:  # nothing moves, nor does the light
            none = np.zeros_like(thumbnails)
            return cls(seconds, thumbnails, background, none, 0.0, none[:, :1])
        steady = _fit_light(thumbnails, background)
        background = np.median(steady, axis=0)
        difference = steady - background
        clipped = np.minimum(difference**2, 9.0)  # what moves must not count as noise
        noise = float(np.median(np.sqrt(clipped.mean(axis=0))))
        # Encoders leave more in some frames than in others; half of a frame's pixels at least do not move.
        of_frame = 1.4826 * np.median(np.abs(difference), axis=1)
        return cls(
            seconds, steady, background, difference, noise, np.maximum(of_frame, noise).astype(np.float32)[:, None]
        )

    @property
    def mirrored(self) -> MovingParts:
        """The same flipped left-right."""
        background = flipped(self.background[None])[0]
        return replace(self, steady=flipped(self.steady), background=background, difference=flipped(self.difference))

    @property
    def has_still_background(self) -> bool:
        """True if most of the picture does not change but for its light."""
        return self.noise < _STILL_NOISE

    @cached_property
    def motion(self) -> np.ndarray:
        """Difference from the median beyond the noise, float32 `(n, pixels)`: zero where nothing moves."""
        return _beyond(self.difference, _LEAST + _NOISES * self.noises)

    @cached_property
    def halved(self) -> np.ndarray:
        """`motion`, mean of blocks of 2 x 2 pixels, `(n, pixels / 4)`."""
        side = math.isqrt(self.motion.shape[1])
        pictures = self.motion.reshape(-1, side, side)
        rows = pictures[:, ::2] + pictures[:, 1::2]
        return ((rows[:, :, ::2] + rows[:, :, 1::2]) / 4).reshape(len(pictures), -1)

    @property
    def is_little(self) -> bool:
        """True if what moves is small, or nothing moves."""
        return self.energy < _LITTLE * self.steady.size

    @cached_property
    def energy(self) -> float:
        """Of `motion`, squared grey levels."""
        return float((self.motion**2).sum())

    def at(self, times: np.ndarray, values: np.ndarray) -> np.ndarray:
        """`values`, one row for each sample, at `times` (s), linear between samples."""
        return interpolate(self.seconds, values, times)


def interpolate(seconds: np.ndarray, values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """`values` float32 `(n, ...)`, one row for each of `seconds` `(n,)`, at `times` (s): linear between rows."""
    if len(seconds) == 1:
        return np.repeat(values, len(times), axis=0)
    left = np.clip(np.searchsorted(seconds, times, side="right") - 1, 0, len(seconds) - 2)
    span = seconds[left + 1] - seconds[left]
    weight = np.clip((times - seconds[left]) / span, 0, 1).astype(np.float32)[:, None]
    return values[left] * (1 - weight) + values[left + 1] * weight


@dataclass(frozen=True)
class Comparison:
    """Two videos at one offset: `apart` from 0 (the same motion) to 2 (nothing in common); `energy` of what moves in both
    at this offset, squared grey levels; the `background` of one and of the `other`, `(pixels,)`."""

    apart: float
    energy: float
    background: np.ndarray
    other: np.ndarray

    @property
    def same_background(self) -> bool:
        return is_same_background(self.background, self.other)


def is_same_background(background: np.ndarray, other: np.ndarray) -> bool:
    """Return True for backgrounds, `(pixels,)`, that differ by no more than light and encoding make."""
    contrast = float(other.std())
    # Of a picture without contrast the brightness is all that there is to compare.
    if abs(float(background.mean() - other.mean())) > (_BRIGHTER if contrast > _FLAT else _BRIGHTER_FLAT):
        return False
    fitted = background - other
    if fitted.std() > _SAME_LIGHT:
        fitted = _fit_light(background[None], other)[0] - other
    peak = np.abs(fitted - np.median(fitted)).max()
    return bool(fitted.std() < 1.5 + 0.02 * contrast and peak < 8 + 0.02 * contrast)


def may_be_one_place(a: MovingParts, b: MovingParts) -> bool:
    """Return False for videos of fixed cameras whose backgrounds differ in most pixels: a cheap test before others."""
    most = _SAME_PLACE + _SAME_PLACE_SHARE * float(b.background.std())
    if float(np.median(np.abs(a.background - b.background))) < most:
        return True
    fitted = _fit_light(a.background[None], b.background)[0]
    return float(np.median(np.abs(fitted - b.background))) < most


def both_still(a: MovingParts, b: MovingParts) -> bool:
    """True if nothing moves in either."""
    return a.energy < _MOVING and b.energy < _MOVING


def is_telling(energy: float, a: MovingParts, b: MovingParts) -> bool:
    """True if a part in which so much moves (`Comparison.energy`) stands for videos in which that much does."""
    return energy >= min(_MOVING, _MOVING_SHARE * (a.energy + b.energy))


def compare_moving(a: MovingParts, b: MovingParts, offset: float, step: float) -> Comparison | None:
    """Compare `a` with `b` shifted by `offset` (s); `step` (s) is the wider distance of samples. None: no overlap."""
    inside = (a.seconds - offset >= -1e-6) & (a.seconds - offset <= b.seconds[-1] + 1e-6)
    times = a.seconds[inside]
    if len(times) < 2:
        return None
    near_a = [a.steady[inside], *(a.at(times + shift, a.steady) for shift in (-step / 2, step / 2))]
    near_b = [b.at(times - offset + shift, b.steady) for shift in (0, -step / 2, step / 2)]
    median_a = a.background if inside.all() else np.median(near_a[0], axis=0)
    median_b = np.median(near_b[0], axis=0)
    near_a, near_b = [one - median_a for one in near_a], [one - median_b for one in near_b]
    noise = np.maximum(a.noises[inside], b.at(times - offset, b.noises))
    least = _LEAST + _NOISES * noise
    energy = sum((_beyond(one[0], least) ** 2).sum(axis=0) for one in (near_a, near_b))
    error = sum((_beyond(_outside(one[0], other), least) ** 2).sum(axis=0) for one, other in ((near_a, near_b), (near_b, near_a)))  # fmt: skip
    # By energy, what moves much counts; by amplitude, what moves in many places does: a timestamp beside a small animal
    # moves more than the animal does, but in few pixels.
    apart = float(error.sum() / (energy.sum() + _DEAD_ENERGY))
    apart += float(np.sqrt(error).sum() / (np.sqrt(energy).sum() + _DEAD_AMPLITUDE))
    return Comparison(apart, float(energy.sum()), median_a, median_b)


def flipped(pictures: np.ndarray) -> np.ndarray:
    """Square pictures, `(n, side * side)`, flipped left-right."""
    side = math.isqrt(pictures.shape[1])
    return pictures.reshape(-1, side, side)[:, :, ::-1].reshape(pictures.shape)


def _beyond(values: np.ndarray, least: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.maximum(np.abs(values) - least, 0)


def _outside(values: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    """How far `values` are outside the range of `others`, which were sampled at about the same time."""
    low, high = np.minimum.reduce(others), np.maximum.reduce(others)
    return np.maximum(0, np.maximum(values - high, low - values))


def _fit_light(pictures: np.ndarray, background: np.ndarray) -> np.ndarray:
    """`pictures` `(n, pixels)`, each with the brightness and contrast at which most of it is like `background`."""
    weights = np.ones_like(pictures)
    steady = pictures
    for _ in range(4):  # reweighted least squares: what differs by much does not move the fit
        gain, shift = _light(pictures, background, weights)
        steady = (pictures - shift) / gain
        weights = 1 / (1 + ((steady - background) / 2) ** 2)
    return steady


def _light(pictures: np.ndarray, background: np.ndarray, weights: np.ndarray) -> Iterator[np.ndarray]:
    """Gain and shift, `(n, 1)`, that make `background` most like each picture."""
    total, mean = weights.sum(axis=1), weights @ background
    seen = weights * pictures
    gain = np.ones(len(pictures), pictures.dtype)
    if background.std() >= _FLAT:
        spread = total * (weights @ background**2) - mean**2
        gain = np.clip((total * (seen @ background) - mean * seen.sum(axis=1)) / (spread + 1e-6), 0.5, 2)
    return (value[:, None] for value in (gain, (seen.sum(axis=1) - gain * mean) / total))
