"""Whether two videos show the same content, or one a part of the other, by their fingerprints.

They do when, at some offset in time, their thumbnails change alike. The change is compared, not the picture: clips of
one person in one room share their background and differ in what moves. Where the background is still and little moves,
noise and flicker hide that change: then what moves is found first and compared alone (moving_parts.py), and where nothing
moves, the same picture is the same content. What is allowed to differ is what re-encoding
does (a noise floor) and what sampling at other moments does (a share of how far the thumbnails bend between samples),
so that slow repetitive motion, which could be interpolated well, must fit well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.fingerprint import Samples
from data_prep.moving_parts import (
    Comparison,
    both_still,
    compare_moving,
    is_same_background,
    is_telling,
    may_be_one_place,
)

_GRID_STEP = 1 / 16  # s at least between offsets tried first; halved down to 1/64 s around the two best
_MAX_OFFSETS = 10_000  # bounds time and memory; ten minutes in steps of `_GRID_STEP`
_MIN_OVERLAP = 2.0  # s, or half of the shorter video when that is less
_WHOLE = 0.85  # of a video: so much of it counts as all of it
# Highest misfit (see `_Fit.misfit`) of copies, by how much evidence there is. Measured on 1,430 true copies of UCF101 and
# skateboard clips (re-encoded, rescaled, other rates, mirrored, trimmed) and their 312 distinct clips.
_MISFIT_WHOLE = 4.4  # all of both videos: copies reached 3.2, distinct clips began at 6.4
_MISFIT_INSIDE, _MISFIT_SHORT_INSIDE = 3.0, 2.5  # all of the shorter one: copies reached 2.0, and 3.4 below 2 s
# A part of each leaves most offsets to try on least evidence: distinct push-ups of very regular persons began at 1.9, and
# at 0.9 below 2 s; half of the true overlaps reached 0.5, 90 % of them 1.5.
_MISFIT_PART, _MISFIT_SHORT_PART = 1.4, 0.8
# Stripes, bars and fades look alike whoever made them: they must fit as re-encoded ones do. (Least detail of 1,730 real
# videos: 0.039; bars of a test pattern: 0.0003; misfits of those bars: 0.4 and more between distinct ones.)
_PLAIN, _MISFIT_PLAIN = 0.01, 0.1
_ENCODING_NOISE = 0.5  # squared grey levels of a thumbnail's pixel
_MAX_UNLIKE = 0.45  # of the energy of both motions; true copies reached 0.43 (3 samples), independent motions are at 1
_ALIKE = 0.4  # squared distance of pictures of unit contrast; true copies reached 0.24
_HOPELESS = 0.7  # of `_Fit.unlike` at the offsets tried first
_STILL = 1.0  # squared grey levels; the calmest of 312 real clips had 3.6
# Highest `Comparison.apart` where one holds the other, and where a part of each is common. Of 2,160 pairs of distinct clips
# of one camera the first began at 0.75 (6 px of 180 in strong noise; 1.1 from 10 px on) and the second at 0.18. Of 24 clips
# of another camera, whose subjects of 16 px go along one line, two that start side by side had 0.69. 864 copies reached 0.5,
# but for four of 6 px that were encoded at crf 36 under a lamp or a tree in motion (0.8 to 1).
_APART_INSIDE, _APART_PART = 0.6, 0.15


def same_content(a: Samples, b: Samples) -> float | None:
    """How badly the content fits (0: perfectly; `_MISFIT_WHOLE` at most) where one holds the other or a part; None: distinct."""
    if a.step < b.step:
        a, b = b, a  # b is interpolated: the one with more samples
    if not _alike_somewhere(a, b):
        return None
    calm = max(a.variance, b.variance) < _STILL
    fixed = calm or (a.is_of_fixed_camera and b.is_of_fixed_camera)
    if fixed and both_still(a.moving, b.moving):
        return 0.0 if is_same_background(a.moving.background, b.moving.background) else None
    if fixed and not may_be_one_place(a.moving, b.moving):
        return None
    fit = None if calm else _same_change(a, b)
    if fit is None:
        return _same_motion(a, b) if fixed and (a.moving.is_little or b.moving.is_little) else None
    if fixed and not any(one.apart <= _highest_apart(a, b, offset) for one, offset in _motions(a, b, fit)):
        return None
    return fit.misfit


def _same_change(a: Samples, b: Samples) -> _Fit | None:
    """How videos of which enough changes fit where their content is the same; None: distinct."""
    fits = [_refine(a, b, offset) for offset in _likely_offsets(a, b)]
    best = min((fit for fit in fits if fit is not None), key=lambda fit: fit.unlike, default=None)
    if best is None or not best.is_convincing():
        return None
    return best if best.misfit <= _highest_misfit(a, b, best.length) else None


def _same_motion(a: Samples, b: Samples) -> float | None:
    """`same_content` of videos with a still background before which something moves."""
    fits = []
    for one, offset in _motions(a, b):
        # An empty room is no part of the clips in which somebody walks through it.
        telling = is_telling(one.energy, a.moving, b.moving)
        if telling and one.apart <= _highest_apart(a, b, offset) and one.same_background:
            fits.append(one.apart)
    return min(fits, default=None)


def _motions(a: Samples, b: Samples, fit: _Fit | None = None) -> list[tuple[Comparison, float]]:
    """What moves, compared at likely offsets (s), and at that of `fit`."""
    offsets = [0.0] if fit is None else [fit.offset]
    offsets += _likely_offsets(a, b, moving=True)
    step = max(a.step, b.step)
    compared = [(compare_moving(a.moving, b.moving, offset, step), offset) for offset in dict.fromkeys(offsets)]
    return [(one, offset) for one, offset in compared if one is not None]


def _highest_apart(a: Samples, b: Samples, offset: float) -> float:
    overlap = min(a.length, b.length + offset) - max(0.0, offset)
    return _APART_INSIDE if overlap >= _WHOLE * min(a.length, b.length) else _APART_PART


def _alike_somewhere(a: Samples, b: Samples) -> bool:
    """Whether any second of one looks like any of the other: a cheap test that sorts out most mirrors of distinct clips."""
    squares = (a.pictures**2).sum(axis=1)[:, None] + (b.pictures**2).sum(axis=1)
    return float((squares - 2 * a.pictures @ b.pictures.T).min()) < _ALIKE


def _highest_misfit(a: Samples, b: Samples, overlap: float) -> float:
    if min(a.detail, b.detail) < _PLAIN:
        return _MISFIT_PLAIN
    shorter, longer = sorted([a.length, b.length])
    if overlap >= _WHOLE * longer:
        return _MISFIT_WHOLE
    if overlap >= _WHOLE * shorter:
        return _MISFIT_INSIDE if overlap >= _MIN_OVERLAP else _MISFIT_SHORT_INSIDE
    return _MISFIT_PART if overlap >= _MIN_OVERLAP else _MISFIT_SHORT_PART


@dataclass(frozen=True)
class _Fit:
    """Two videos at one offset. Squared grey levels per pixel: `error` between what changes in them, `energy` of that
    change (their mean), `bend` (how far a sample is from the line between its neighbours), of the means' difference
    (`apart`) and of the mean picture (`contrast`); `brighter` in grey levels; `offset`, `length` of the overlap in s."""

    error: float
    energy: float
    bend: float
    apart: float
    contrast: float
    brighter: float
    offset: float
    length: float
    num_samples: int

    @property
    def misfit(self) -> float:
        return self.error / (_ENCODING_NOISE + 0.1 * self.bend + 0.02 * self.energy)

    @property
    def unlike(self) -> float:
        return (self.error + 0.5) / (2 * self.energy + 1)

    def is_convincing(self) -> bool:
        """Enough of it moves, and the unmoving part does not speak against it."""
        return (
            self.num_samples >= 3
            and self.energy >= _STILL
            and self.error < 2 * _MAX_UNLIKE * self.energy
            and self.apart < 9 + 0.03 * self.contrast + self.error  # limited against full range: 0.02
            and abs(self.brighter) < 20
        )


def _fit(a: Samples, b: Samples, offset: float) -> _Fit | None:
    """`b` shifted by `offset` (s) against `a`, at the times of a's samples."""
    times = a.seconds - offset
    inside = (times >= -1e-6) & (times <= b.seconds[-1] + 1e-6)
    count = int(inside.sum())
    if count < 2:
        return None
    seen, other = a.pixels[inside], b.at(times[inside])
    mean, other_mean = seen.mean(axis=0), other.mean(axis=0)
    change, other_change = seen - mean, other - other_mean
    bends = seen[1:-1] - (seen[2:] + seen[:-2]) / 2
    return _Fit(
        error=_mean_square(change - other_change),
        energy=(_mean_square(change) + _mean_square(other_change)) / 2,
        bend=_mean_square(bends) if count > 2 else 0.0,
        apart=float((mean - other_mean).var()),
        contrast=float(mean.var()),
        brighter=float((mean - other_mean).mean()),
        offset=offset,
        length=float(np.ptp(times[inside])) + a.step,
        num_samples=count,
    )


def _mean_square(values: np.ndarray) -> float:
    flat = values.ravel()
    return float(flat @ flat) / flat.size


def _refine(a: Samples, b: Samples, offset: float) -> _Fit | None:
    best, step = _fit(a, b, offset), _GRID_STEP
    need = _needed(a, b) - a.step
    while step > 1 / 64:
        step /= 2
        for candidate in (offset - step, offset + step):
            fit = _fit(a, b, candidate)
            if fit and fit.length >= need and (best is None or fit.unlike < best.unlike):
                best, offset = fit, candidate
    return best


def _needed(a: Samples, b: Samples) -> float:
    return min(_MIN_OVERLAP, min(a.length, b.length) / 2)


def _likely_offsets(a: Samples, b: Samples, moving: bool = False) -> list[float]:
    """At most two offsets (s), of all in steps of `_GRID_STEP` (or b's step), at which change fits best; none if badly.

    `moving`: only of what moves before a still background.
    """
    step = max(_GRID_STEP, b.grid_step, (a.length + b.length) / _MAX_OFFSETS)
    ratio = max(1, round(a.grid_step / step))  # a's grid is so many times wider
    grid_a, grid_b = a.grid(step * ratio, moving), b.grid(step, moving)
    offsets = np.arange(1 - len(grid_b), ratio * (len(grid_a) - 1) + 1)
    columns = ratio * np.arange(len(grid_a)) - offsets[:, None]  # (offsets, samples of a) -> sample of b
    inside = (columns >= 0) & (columns < len(grid_b))
    counts = inside.sum(axis=1)
    shorter = min(len(grid_a) * ratio, len(grid_b)) * step
    enough = (counts >= 2) & (counts * step * ratio >= min(_MIN_OVERLAP, shorter / 2))
    if not enough.any():
        return []
    unlike = _unlike(grid_a, grid_b, columns[enough], inside[enough])
    order = np.argsort(unlike, kind="stable")[: 3 if moving else 2]
    return [float(offsets[enough][i]) * step for i in order if moving or unlike[i] < _HOPELESS]


def _unlike(a: np.ndarray, b: np.ndarray, columns: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """`_Fit.unlike` for many offsets at once; row i pairs a's samples with `columns[i]` of b where `inside[i]`."""
    center = (a.sum(axis=0) + b.sum(axis=0)) / (len(a) + len(b))  # for the precision of the sums below
    a, b = a - center, b - center
    columns = np.where(inside, columns, len(b))  # one beyond: taken as zero
    used_a = inside.astype(np.float32)
    used_b = np.zeros((len(columns), len(b) + 1), np.float32)
    np.put_along_axis(used_b, columns, 1, axis=1)
    used_b = used_b[:, :-1]
    products = np.concatenate([a @ b.T, np.zeros((len(a), 1), np.float32)], axis=1)
    cross = products[np.arange(len(a)), columns].sum(axis=1)
    sum_a, sum_b = used_a @ a, used_b @ b
    square = used_a @ np.einsum("ij,ij->i", a, a) + used_b @ np.einsum("ij,ij->i", b, b)
    counts = inside.sum(axis=1)
    squares = np.einsum("ij,ij->i", sum_a, sum_a) + np.einsum("ij,ij->i", sum_b, sum_b)
    apart = sum_a - sum_b
    energy = square - squares / counts
    error = square - 2 * cross - np.einsum("ij,ij->i", apart, apart) / counts
    weight = counts * a.shape[1]
    return (error / weight + 0.5) / (energy / weight + 1)
