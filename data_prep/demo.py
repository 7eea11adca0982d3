"""The embedded demonstration: small real H.264 files of moving, turning and growing shapes.

The classes come in pairs that are each other played backwards: left/right, clockwise/counterclockwise,
growing/shrinking. Every video draws a path for place, angle and size alike; its class says along which of them time
runs, and in which direction, and the others stay at a random point of theirs. So a frame taken at random from a video
has the same distribution in every class: a still picture does not tell the class, only the order of pictures does.
"""

from __future__ import annotations

import sys

from data_prep.sigterm import interruptible

if __name__ == "__main__":
    interruptible()  # before what takes seconds to import

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from data_prep.errors import CommandLine, UserError, exit_cleanly
from data_prep.lock import only_writer

# Each class: what changes along its path, and whether it runs forwards.
_MOTIONS = {
    "moving_right": ("place", True),
    "moving_left": ("place", False),
    "turning_clockwise": ("angle", True),
    "turning_counterclockwise": ("angle", False),
    "growing": ("size", True),
    "shrinking": ("size", False),
}
CLASSES = tuple(_MOTIONS)

SIZE = 64  # px, height and width
FRAMES_PER_SECOND = 8
NUM_FRAMES = 16


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
    """Yields the frames of one video, uint8 RGB `(SIZE, SIZE, 3)`."""
    background, (body, tip) = _background(random), random.uniform(180, 255, (2, 3))
    way = random.uniform(0.45, 0.65) * SIZE  # px from end to end of the path
    left, y = random.uniform(0.06, 0.94 - way / SIZE) * SIZE, random.uniform(0.2, 0.8) * SIZE
    turn = np.radians(random.uniform(110, 170))  # the tip swings through an arc around "up"
    angle = random.uniform(np.radians(-210), np.radians(30) - turn)
    radius, growth = random.uniform(0.11, 0.14) * SIZE, random.uniform(1.6, 2.3)
    width = random.uniform(0.45, 0.6)  # of the body, relative to its length
    changing, forwards = _MOTIONS[label]
    along = {"place": random.uniform(), "angle": random.uniform(), "size": random.uniform()}
    for time in np.linspace(0, 1, NUM_FRAMES):
        along[changing] = time if forwards else 1 - time
        x, direction, size = (
            left + way * along["place"],
            angle + turn * along["angle"],
            radius * growth ** along["size"],
        )
        masks = _arrow(x, y, direction, size, width)
        picture = background + (body - background) * masks[0]
        picture = picture + (tip - picture) * masks[1]
        yield np.clip(picture + random.normal(0, 6, (SIZE, SIZE, 1)), 0, 255).astype(np.uint8)


def _background(random: np.random.Generator) -> np.ndarray:
    """Smooth random texture, float `(SIZE, SIZE, 3)`: waves of random direction, length, phase and colour."""
    y, x = np.mgrid[0:SIZE, 0:SIZE, 0:1][:2] / SIZE
    texture = np.full((SIZE, SIZE, 3), random.uniform(20, 80, 3))
    for _ in range(6):
        waves = random.uniform(-6, 6, 2)
        texture += random.uniform(-8, 8, 3) * np.sin(2 * np.pi * (waves[0] * x + waves[1] * y + random.uniform()))
    return texture


def _arrow(x: float, y: float, direction: float, size: float, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Two masks in 0..1, `(SIZE, SIZE, 1)`: an oval around (x, y) and the round tip that says where it points."""
    pixels = np.arange(SIZE) + 0.5
    dx, dy = pixels[None, :, None] - x, pixels[:, None, None] - y
    ahead = dx * np.cos(direction) + dy * np.sin(direction)
    aside = dy * np.cos(direction) - dx * np.sin(direction)
    oval = size - np.hypot(ahead, aside / width)
    tip = 0.5 * size - np.hypot(ahead - size, aside)
    return np.clip(oval + 0.5, 0, 1), np.clip(tip + 0.5, 0, 1)


@exit_cleanly
def main() -> None:
    parser = CommandLine(prog="python -m data_prep.demo", description="Write the demonstration videos.")
    parser.add_argument("folder", type=Path, help="folder to write <class>/<number>.mp4 into")
    parser.add_argument("--videos_per_class", type=int, default=175, help="default: 175")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    options = parser.parse_args()
    with only_writer(("folder", options.folder)):
        write_demo_videos(options.folder, options.videos_per_class, options.seed)


if __name__ == "__main__":
    sys.exit(main())
