"""How many distinct clips of one fixed camera data_prep takes for copies, and how many of their true copies it misses.

    python benchmarks/fixed_camera.py [--clips 16] [--sources 2] [--seed 0]

Makes clips that share a still background and differ in what moves: somebody small in a room, an animal in a cage, a
cursor and typed text on a screen; with noise, flicker, a timestamp, a swaying tree, dusk. All pairs of the distinct clips
are compared, also those that `find_duplicates` would not look at. Needs no other program.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np

from data_prep.duplicates import find_duplicates
from data_prep.fingerprint import decode
from data_prep.labeled import LabeledVideo
from data_prep.same_content import same_content
from data_prep.scan import Storing, scan_video

RATE, NUM_FRAMES, HEIGHT, WIDTH = 12, 54, 180, 320
Copy = tuple[np.ndarray, float, str, dict[str, str]]  # frames, rate, codec, its options


@dataclass(frozen=True)
class Setting:
    """What all clips of one camera have in common. `size`: of what moves, px of 180."""

    place: str = "room"  # room | cage | screen
    size: int = 16
    noise: float = 2.0  # standard deviation, grey levels
    flicker: str = "none"  # none | mains: the same wave in all clips | lamp: at random
    beside: str = "none"  # none | timestamp | tree | dusk
    crf: int = 23

    def __str__(self) -> str:
        parts = (self.place, f"{self.size} px", f"noise {self.noise:g}")
        flicker = f"flicker {self.flicker}" if self.flicker != "none" else ""
        return ", ".join(filter(None, (*parts, flicker, self.beside.replace("none", ""), f"crf {self.crf}" if self.crf != 23 else "")))  # fmt: skip


def settings() -> Iterator[Setting]:
    for size, noise, flicker in itertools.product((6, 10, 16, 26, 40), (0.5, 2.0, 8.0), ("none", "mains")):
        yield Setting("room", size, noise, flicker)
    for size, beside in itertools.product((16, 6), ("timestamp", "tree", "dusk")):
        yield Setting("room", size, beside=beside)
    for size in (16, 6):
        yield Setting("room", size, flicker="lamp")
        yield Setting("room", size, crf=35)
        yield Setting("cage", size)
        yield Setting("cage", size, flicker="mains", beside="timestamp")
    yield Setting("screen", 10, noise=0.0)
    yield Setting("screen", 10, noise=0.0, crf=35)


# --- clips


def smooth(random: np.random.Generator, height: int, width: int, low: float = 30, high: float = 220) -> np.ndarray:
    coarse = av.VideoFrame.from_ndarray(random.uniform(low, high, (9, 16)).astype(np.uint8), format="gray")
    return coarse.reformat(width=width, height=height, interpolation="BICUBIC").to_ndarray().astype(float)


def background(setting: Setting, seed: int) -> np.ndarray:
    random = np.random.default_rng([seed, 0])
    if setting.place == "cage":
        return 0.3 * smooth(random, HEIGHT, WIDTH) + 150
    if setting.place == "screen":
        screen = np.full((HEIGHT * 2, WIDTH * 2), 245.0)
        screen[:24], screen[:, :90] = 70, 225
        for line in range(40, HEIGHT * 2 - 12, 14):
            for left in range(8, 80, 8):
                screen[line : line + 8, left : left + 6] = random.choice([60, 225], p=[0.6, 0.4])
        return screen
    return smooth(random, HEIGHT, WIDTH)


def draw_person(frames: np.ndarray, setting: Setting, random: np.random.Generator) -> None:
    """A dark block that walks, or walks and falls."""
    x, y = random.uniform(0.1, 0.5) * WIDTH, random.uniform(0.4, 0.8) * HEIGHT
    speed = random.uniform(0.6, 1.4) * WIDTH * 0.6 / len(frames) * random.choice([-1, 1])
    x = WIDTH - x if speed < 0 else x
    falls = random.uniform(0.3, 0.7) * len(frames) if random.random() < 0.5 else len(frames)
    for i, frame in enumerate(frames):
        lying = min(1.0, max(0.0, (i - falls) / 5))
        tall, broad = setting.size * (1 - 0.6 * lying), setting.size * (0.4 + 0.6 * lying)
        at = x + speed * min(i, falls)
        top, left = max(0, int(y - tall)), max(0, int(at - broad / 2))
        frame[top : int(y), left : max(left, int(at + broad / 2))] = 30


def draw_animal(frames: np.ndarray, setting: Setting, random: np.random.Generator) -> None:
    """A dark ellipse that runs, turns and rests."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    at, way = random.uniform((40, 60), (HEIGHT - 40, WIDTH - 60)), random.uniform(0, 6.3)
    runs = True
    for frame in frames:
        runs = runs if random.random() < 0.9 else not runs
        way += random.normal(0, 0.5)
        at = at + runs * 4 * np.array([np.sin(way), np.cos(way)])
        at = np.clip(at, (20, 20), (HEIGHT - 20, WIDTH - 20))
        along, across = (x - at[1]) * np.cos(way) + (y - at[0]) * np.sin(way), (y - at[0]) * np.cos(way) - (x - at[1]) * np.sin(way)  # fmt: skip
        frame[(along / setting.size) ** 2 + (across / setting.size * 2) ** 2 < 0.5] = 25


def draw_typing(frames: np.ndarray, setting: Setting, random: np.random.Generator) -> None:
    """Letters that appear one after another, and a pointer that goes from one place to another."""
    height, width = frames.shape[1:]
    line, left = int(random.integers(3, 22)) * 14 + 10, int(random.integers(12, 40)) * 8
    begin, end = random.uniform((40, 100), (height - 40, width - 20), (2, 2))
    start = int(random.integers(4, 30))
    for number in range(int(random.integers(10, 30))):
        column = left + 8 * number
        frames[start + number :, line : line + 9, column : column + 5] = 40
    for i, frame in enumerate(frames):
        row, column = (begin + (end - begin) * np.clip((i - 5) / 20, 0, 1)).astype(int)
        frame[row : row + setting.size, column : column + setting.size * 2 // 3] = 0


def draw_beside(frames: np.ndarray, setting: Setting, random: np.random.Generator) -> None:
    """Things beside the one that moves."""
    if setting.beside == "timestamp":
        start, digits = int(random.integers(0, 80_000)), np.random.default_rng(5).random((10, 5, 3)) < 0.5
        for i, frame in enumerate(frames):
            for place, digit in enumerate(f"{start + i // RATE:06d}"):
                shape = np.kron(digits[int(digit)], np.ones((3, 3)))
                frame[8:23, 8 + 12 * place : 17 + 12 * place] = np.where(shape, 240, 20)
    if setting.beside == "tree":
        y, x = np.mgrid[: HEIGHT // 2, : WIDTH // 3]
        phase, speed = random.uniform(0, 6), random.uniform(2, 4)
        for i, frame in enumerate(frames):
            sway = 3 * np.sin(phase + speed * i / RATE) + random.normal(0, 0.5)
            leaves = 40 * np.sin((x + sway * (HEIGHT // 2 - y) / 90) / 4) * np.sin(y / 3)
            frame[: HEIGHT // 2, -(WIDTH // 3) :] += leaves


def light(setting: Setting, random: np.random.Generator) -> np.ndarray:
    """The brightness of each frame, as a factor."""
    times = np.arange(NUM_FRAMES) / RATE
    factor = np.ones(NUM_FRAMES)
    if setting.flicker == "mains":
        factor += 0.04 * np.sin(2 * np.pi * 0.7 * times)
    if setting.flicker == "lamp":
        factor += random.normal(0, 0.03, NUM_FRAMES)
    if setting.beside == "dusk":
        factor *= np.linspace(1, 0.7, NUM_FRAMES)
    return factor


def clip(setting: Setting, camera: int, number: int) -> np.ndarray:
    """uint8 gray `(NUM_FRAMES, height, width)`."""
    random = np.random.default_rng([camera, 1, number])
    frames = np.repeat(background(setting, camera)[None], NUM_FRAMES, axis=0)
    draw_beside(frames, setting, random)
    draw = {"room": draw_person, "cage": draw_animal, "screen": draw_typing}[setting.place]
    draw(frames, setting, random)
    frames *= light(setting, random)[:, None, None]
    frames += setting.noise * random.standard_normal(frames.shape, dtype=np.float32)
    return np.clip(frames, 0, 255).astype(np.uint8)


# --- copies


def brighter(frames: np.ndarray) -> np.ndarray:
    return np.clip(frames * 1.04 + 6, 0, 255).astype(np.uint8)


def at_rate(frames: np.ndarray, rate: float) -> np.ndarray:
    return frames[(np.arange(int(len(frames) * rate / RATE)) * RATE / rate).astype(int)]


def resized(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    pictures = (av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="gray") for frame in frames)
    return np.stack([one.reformat(width=width, height=height, interpolation="AREA").to_ndarray() for one in pictures])


X264: tuple[str, dict[str, str]] = ("libx264", {"crf": "26"})
COPIES: dict[str, Callable[[np.ndarray], Copy]] = {
    "mirrored": lambda frames: (frames[:, :, ::-1], RATE, *X264),
    "H.264 crf 36": lambda frames: (frames, RATE, "libx264", {"crf": "36"}),
    "MPEG-4": lambda frames: (frames, RATE, "mpeg4", {"qmin": "10", "qmax": "10"}),
    "VP9": lambda frames: (
        frames,
        RATE,
        "libvpx-vp9",
        {"crf": "40", "b": "0", "cpu-used": "8", "deadline": "realtime"},
    ),
    "half size": lambda frames: (resized(frames, frames.shape[1] // 4 * 2, frames.shape[2] // 4 * 2), RATE, *X264),
    "first 70 %": lambda frames: (frames[: int(0.7 * len(frames))], RATE, *X264),
    "last 70 %": lambda frames: (frames[-int(0.7 * len(frames)) :], RATE, "libx264", {"crf": "32"}),
    "8 frames/s": lambda frames: (at_rate(frames, 8), 8, *X264),
    "brighter": lambda frames: (brighter(frames), RATE, *X264),
}


def encode(path: Path, frames: np.ndarray, rate: float, codec: str, options: dict[str, str]) -> None:
    with av.open(str(path), "w") as container:
        preset = {"preset": "veryfast"} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=int(rate), options=preset | options)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="gray")
            container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode())


def fingerprint(path: Path) -> bytes:
    scanned, pictures = scan_video(LabeledVideo(path, path.name, ("x",)), "", Storing("files"))
    if scanned.reason:
        raise ValueError(scanned.reason)
    return pictures.fingerprint


def fingerprints(number: int, setting: Setting, camera: int, with_copies: bool) -> list[bytes]:
    """Of a clip and, if asked, of each kind of copy of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mkv")
        encode(path, clip(setting, camera, number), RATE, "libx264", {"crf": str(setting.crf)})
        found = [fingerprint(path)]
        if with_copies:
            with av.open(str(path)) as container:
                frames = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])
            for number, alter in enumerate(COPIES.values()):
                path = Path(folder, f"{number}.mkv")
                encode(path, *alter(frames))
                found.append(fingerprint(path))
    return found


def taken_for_copies(prints: list[bytes]) -> int:
    """How many distinct clips are taken for a copy of another one, as they are or mirrored; all pairs are compared."""
    decoded = [decode(one) for one in prints]
    linked: set[int] = set()
    for i, j in itertools.combinations(range(len(decoded)), 2):
        a, b = decoded[i], decoded[j]
        if a is not None and b is not None and (same_content(a, b) is not None or same_content(a, b.mirrored) is not None):  # fmt: skip
            linked |= {i, j}
    return len(linked)


def missed(prints: list[bytes], copies: list[list[bytes]]) -> list[str]:
    """Kinds of the copies, of the first clips, that a search among all clips does not find."""
    kinds = []
    for kind, name in enumerate(COPIES):
        all_prints = [*prints, *(one[kind] for one in copies)]
        found = find_duplicates([str(number) for number in range(len(all_prints))], all_prints)
        pairs = {(one.first, one.second) for one in found}
        kinds += [name for number in range(len(copies)) if (number, len(prints) + number) not in pairs]
    return kinds


def measure(setting: Setting, camera: int, clips: int, sources: int) -> str:
    """A row of the table."""
    made = [fingerprints(number, setting, camera, number < sources) for number in range(clips)]
    prints, copies = [one[0] for one in made], [one[1:] for one in made[:sources]]
    names = missed(prints, copies)
    which = ", ".join(f"{name} ({count})" for name, count in Counter(names).items())
    return f"| {setting} | {taken_for_copies(prints)} of {clips} | {len(names)} of {len(COPIES) * sources} | {which} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--sources", type=int, default=2, help="clips of which copies are made")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    row = partial(measure, camera=options.seed, clips=options.clips, sources=options.sources)
    print("| clips | taken for copies | copies missed | of which kinds |\n|---|---|---|---|")
    with ProcessPoolExecutor() as pool:
        for line in pool.map(row, settings()):
            print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
