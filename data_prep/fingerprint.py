"""What a video looks like over time, in a few kilobytes: thumbnails taken while the scan decodes it."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data_prep.moving_parts import MovingParts, flipped, interpolate

SIZE = 16  # px of a thumbnail; 12 px separated distinct clips of one scene less well (5.4 against 6.4, see same_content.py)
NUM_PIXELS = SIZE * SIZE
_HEADER = struct.Struct("<4sI")
_MAGIC = b"TSF1"

# Samples per second. Clips of about a second need the dense start: with 8 per second throughout, the worst true copy
# fitted as badly (3.6) as the best distinct clip (4.3); with this, 3.1 against 6.4. 16 throughout was not better.
_HEAD_SECONDS, _HEAD_RATE, _RATE = 3.0, 16.0, 8.0
MAX_SAMPLES = 240  # of 256 + 4 bytes; beyond (27 s) every second one is dropped, and time steps twice as wide
_LONGEST_GAP = 400.0  # s between samples, above that of a film of 24 hours: timestamps may claim anything
_MAX_GRID = 500  # twice what evenly spaced samples make; where time leaps, the grid is wider than the samples

_SURELY_MOVING = 25.0  # squared grey levels; dusk, of 30 % in a clip, made 10

_UNCHANGED = {"step", "variance", "detail", "is_of_fixed_camera"}  # of `Samples`, by a flip


class Fingerprint:
    """Collects thumbnails while a video is decoded: at most `MAX_SAMPLES`, so at most 64 KB.

    for frame in video:
        if fingerprint.wants(frame.seconds):
            fingerprint.add(frame.gray(SIZE), frame.seconds)
    """

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._thumbnails: list[np.ndarray] = []
        self._due = 0.0
        self._widened = 1  # times the step between samples

    def wants(self, seconds: float) -> bool:
        """Whether a sample is due at this time (s since the first frame, not decreasing)."""
        return seconds >= self._due - 1e-6

    def add(self, gray: np.ndarray, seconds: float) -> None:
        """`gray`: uint8 `(SIZE, SIZE)`, luma of the whole upright frame, averaged over areas."""
        if len(self._seconds) == MAX_SAMPLES:
            del self._seconds[1::2], self._thumbnails[1::2]
            self._widened *= 2
        self._seconds.append(seconds)
        self._thumbnails.append(np.array(gray, dtype=np.uint8).reshape(SIZE, SIZE))
        rate = (_HEAD_RATE if seconds < _HEAD_SECONDS else _RATE) / self._widened
        self._due = (np.floor(seconds * rate + 1e-6) + 1) / rate

    def to_bytes(self) -> bytes:
        """Header, then zlib of the times (float32) and the thumbnails as differences in time (uint8)."""
        pixels = np.array(self._thumbnails, dtype=np.uint8).reshape(-1, NUM_PIXELS)
        steps = np.diff(pixels, axis=0, prepend=np.zeros((1, NUM_PIXELS), np.uint8))  # modulo 256
        body = np.array(self._seconds, dtype="<f4").tobytes() + steps.tobytes()
        return _HEADER.pack(_MAGIC, len(self._seconds)) + zlib.compress(body, 1)


@dataclass(frozen=True)
class Samples:
    """A decoded fingerprint: `seconds` float64 `(n,)` increasing, `pixels` float32 `(n, SIZE * SIZE)` in 0..255."""

    seconds: np.ndarray
    pixels: np.ndarray

    @cached_property
    def step(self) -> float:
        """Typical distance of two samples, s."""
        # Not np.median, which takes ten times as long over so few; pairs of videos ask for it by the million.
        gaps = sorted((self.seconds[1:] - self.seconds[:-1]).tolist())
        return (gaps[(len(gaps) - 1) // 2] + gaps[len(gaps) // 2]) / 2 if gaps else 1 / _RATE

    @property
    def grid_step(self) -> float:
        """`step`, or wider where that would make very many."""
        return max(self.step, self.length / _MAX_GRID)

    @property
    def length(self) -> float:
        """What the samples stand for, s."""
        return float(self.seconds[-1] - self.seconds[0]) + self.step

    def at(self, times: np.ndarray) -> np.ndarray:
        """Thumbnails at `times` (s), float32 `(len(times), SIZE * SIZE)`, linear between samples."""
        return interpolate(self.seconds, self.pixels, times)

    @cached_property
    def mirrored(self) -> Samples:
        """The same flipped left-right."""
        other = Samples(self.seconds, flipped(self.pixels))
        # What a flip does not change, or what can be flipped itself, is not computed again.
        other.__dict__.update({name: self.__dict__[name] for name in self.__dict__.keys() & _UNCHANGED})
        other.__dict__.update(halved=flipped(self.halved), pictures=flipped(self.pictures))
        if "moving" in self.__dict__:
            other.__dict__.update(moving=self.moving.mirrored)
        return other

    @cached_property
    def moving(self) -> MovingParts:
        """What moves before a still background."""
        return MovingParts.of(self.seconds, self.pixels)

    @cached_property
    def is_of_fixed_camera(self) -> bool:
        """True if most of the picture does not change but for its light."""
        change = self.halved - self.halved.mean(axis=0)
        change -= change.mean(axis=1, keepdims=True)
        # Most videos of other cameras are found out by this, which costs a tenth of the rest.
        if float(np.median((change**2).mean(axis=0))) > _SURELY_MOVING:
            return False
        return self.moving.has_still_background

    @cached_property
    def variance(self) -> float:
        """Of the pixels over time, in squared grey levels."""
        return float(self.pixels.var(axis=0).mean())

    @cached_property
    def detail(self) -> float:
        """How far neighbouring pixels differ, along the axis where they differ less, as a share of all variance."""
        pictures = self.pixels.reshape(-1, SIZE, SIZE)
        along = min(float((np.diff(pictures, axis=axis) ** 2).mean()) for axis in (1, 2))
        return along / (float(self.pixels.var()) + 1e-6)

    @cached_property
    def halved(self) -> np.ndarray:
        """The thumbnails at half their size, float32 `(n, SIZE * SIZE / 4)`."""
        pictures = self.pixels.reshape(-1, SIZE, SIZE)
        rows = pictures[:, ::2] + pictures[:, 1::2]  # four times as fast as a mean over two axes
        return ((rows[:, :, ::2] + rows[:, :, 1::2]) / 4).reshape(-1, NUM_PIXELS // 4)

    @cached_property
    def pictures(self) -> np.ndarray:
        """Mean of `halved` over each second, every half second: of mean 0 and unit contrast where it has any, `(n, 64)`."""
        first, end = self.windows(0.5)
        sums = np.concatenate([np.zeros((1, NUM_PIXELS // 4)), np.cumsum(self.halved, axis=0, dtype=np.float64)])
        means = (sums[end] - sums[first]) / (end - first)[:, None]
        means -= means.mean(axis=1, keepdims=True)
        return means / (means.std(axis=1, keepdims=True) + 4) / np.sqrt(NUM_PIXELS / 4)

    def windows(self, hop: float) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the first sample of each second, every `hop` s, and of the one after it; without empty seconds."""
        starts = np.arange(0, max(self.seconds[-1] - 1.0, 0) + 1e-6, hop)
        first = np.searchsorted(self.seconds, starts - 1e-6)
        end = np.searchsorted(self.seconds, starts + 1.0)
        return first[end > first], end[end > first]

    def grid(self, step: float, moving: bool = False) -> np.ndarray:
        """`halved`, or what moves of it, every `step` s, float32 `(n, SIZE * SIZE / 4)`."""
        if (step, moving) not in self._grids:
            values = self.moving.halved if moving else self.halved
            times = np.arange(0, self.seconds[-1] + 1e-6, step)
            self._grids[step, moving] = interpolate(self.seconds, values, times)
        return self._grids[step, moving]

    @cached_property
    def _grids(self) -> dict[tuple[float, bool], np.ndarray]:
        return {}


def decode(data: bytes) -> Samples | None:
    """The samples of `Fingerprint.to_bytes`, or None where there are none (nothing was sampled)."""
    magic, count = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("not a fingerprint of this version")
    if not count:
        return None
    body = zlib.decompress(data[_HEADER.size :])
    seconds = np.frombuffer(body, "<f4", count).astype(np.float64)
    steps = np.frombuffer(body, np.uint8, offset=4 * count).reshape(count, NUM_PIXELS)
    pixels = np.cumsum(steps, axis=0, dtype=np.uint8).astype(np.float32)
    keep = np.concatenate([[True], np.diff(seconds) > 0])  # a clock may stand still
    gaps = np.minimum(np.diff(seconds[keep]), _LONGEST_GAP)
    return Samples(np.concatenate([[0.0], np.cumsum(gaps)]), pixels[keep])
