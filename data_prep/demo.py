"""The embedded demonstration: small real H.264 files of moving, turning and growing shapes.

The classes come in pairs that are each other played backwards: left/right, up/down, clockwise/counterclockwise,
growing/shrinking. Every motion is periodic (a shape that leaves on one side comes back on the other, one that has
grown to its largest starts again at its smallest) and starts at a random phase, so at every moment place, angle and
size have the same distribution in all classes: no single frame tells the class.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from data_prep.errors import UserError, exit_cleanly

CLASSES = (
    "moving_left", "moving_right", "moving_up", "moving_down",
    "turning_clockwise", "turning_counterclockwise", "growing", "shrinking",
)  # fmt: skip

SIZE = 96  # px, height and width
FRAMES_PER_SECOND = 12
NUM_FRAMES = 24


def write_demo_videos(folder: Path, videos_per_class: int, seed: int) -> None:
    """Writes `<class>/<number>.mp4` under `folder`. The same seed gives the same pictures."""
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists and is not empty: the demonstration videos want a folder of their own.")
    jobs = [(label, number) for number in range(videos_per_class) for label in CLASSES]
    for label, number in tqdm(jobs, desc="writing videos", unit="video"):
        path = folder / label / f"{number:04d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng([seed, CLASSES.index(label), number])
        write_video(path, draw_motion(label, random))


def write_video(path: Path, frames: Iterator[np.ndarray]) -> None:
    """Encodes uint8 RGB frames `(height, width, 3)` as H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"preset": "ultrafast", "crf": "20"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def draw_motion(label: str, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields the frames of one video: a shape in one of the motions over a textured, noisy background."""
    background, colors = _background(random), random.uniform(0, 255, (2, 3))
    outline = _outline(random)
    x, y, angle, phase = random.uniform(0, [SIZE, SIZE, 2 * np.pi, 1])
    speed = random.uniform(0.5, 1.0) / NUM_FRAMES  # periods per frame: half a period to a whole one in a video
    for _ in range(NUM_FRAMES):
        # A radius from 11 to 30 px: phase 0 and 1 are the same jump from largest to smallest.
        inside = outline(x, y, angle, 11 * np.exp(phase))
        noise = random.normal(0, 8, (SIZE, SIZE, 1))
        picture = background + (colors[0] - background) * inside[0][..., None]
        picture = picture + (colors[1] - picture) * inside[1][..., None]
        yield np.clip(picture + noise, 0, 255).astype(np.uint8)
        if label in ("moving_left", "moving_right"):
            x += speed * SIZE * (1 if label == "moving_right" else -1)
        elif label in ("moving_up", "moving_down"):
            y += speed * SIZE * (1 if label == "moving_down" else -1)
        elif label in ("turning_clockwise", "turning_counterclockwise"):
            angle += speed * 2 * np.pi * (1 if label == "turning_clockwise" else -1)
        else:
            phase = (phase + speed * (1 if label == "growing" else -1)) % 1


def _background(random: np.random.Generator) -> np.ndarray:
    """Smooth random texture, float `(SIZE, SIZE, 3)`: a few waves of random direction, length, phase and colour."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    texture = np.full((SIZE, SIZE, 3), random.uniform(60, 195, 3))
    for _ in range(6):
        waves = random.uniform(-6, 6, 2)
        texture += random.uniform(-25, 25, 3) * np.sin(2 * np.pi * (waves[0] * x + waves[1] * y + random.uniform()))[..., None]
    return texture


def _outline(random: np.random.Generator):  # noqa: ANN202  (a function of place, angle and radius)
    """A random arrow-like shape: no symmetry, so that every angle of it looks different.

    The function returns two masks in 0..1, `(2, SIZE, SIZE)`: the body and a spot at its front. The picture wraps
    around: what leaves on one side enters on the other.
    """
    sides, depth, wobble = int(random.integers(2, 5)), random.uniform(0.15, 0.3), random.uniform(0.15, 0.3)
    pixels = np.arange(SIZE) + 0.5

    def draw(x: float, y: float, angle: float, radius: float) -> np.ndarray:
        dx = (pixels - x + SIZE / 2) % SIZE - SIZE / 2
        dy = (pixels - y + SIZE / 2) % SIZE - SIZE / 2
        distance = np.hypot(dx[None, :], dy[:, None])
        direction = np.arctan2(dy[:, None], dx[None, :]) - angle
        edge = radius * (1 + depth * np.cos(sides * direction) + wobble * np.cos(direction))
        spot = np.hypot(dx[None, :] - 0.7 * radius * np.cos(angle), dy[:, None] - 0.7 * radius * np.sin(angle))
        return np.clip(np.stack([edge - distance, 0.3 * radius - spot]) + 0.5, 0, 1)

    return draw


@exit_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m data_prep.demo", description="Write the demonstration videos.")
    parser.add_argument("folder", type=Path, help="folder to write <class>/<number>.mp4 into")
    parser.add_argument("--videos_per_class", type=int, default=150, help="default: 150")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    options = parser.parse_args()
    write_demo_videos(options.folder, options.videos_per_class, options.seed)


if __name__ == "__main__":
    sys.exit(main())
