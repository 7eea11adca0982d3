"""Real tiny videos and a real tiny TimeSformer; no network."""

from __future__ import annotations

import json
import os
import zlib

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest


def encode(path: Path, frames: np.ndarray, rate: int = 10, codec: str = "libx264", pix_fmt: str = "yuv420p") -> Path:
    """Writes uint8 RGB `frames` `(num_frames, height, width, 3)` as a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pix_fmt)))
        container.mux(stream.encode())
    return path


def spoiled_mjpeg(path: Path) -> Path:
    """A film of 12 pictures, the sixth of which does not decode."""
    encode(path, gray_ramp(), rate=25, codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    starts = [i for i in range(len(data)) if data[i : i + 3] == b"\xff\xd8\xff"]
    data[starts[5] : starts[6] - 8] = bytes(starts[6] - 8 - starts[5])
    path.write_bytes(data)
    return path


def gray_ramp(num_frames: int = 12, height: int = 48, width: int = 64) -> np.ndarray:
    """Frame i is of the one grey 20 * i: what was read tells which frame it was."""
    values = (20 * np.arange(num_frames) % 256).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (num_frames, height, width, 3)).copy()


def moving_bar(direction: int, seed: int, num_frames: int = 10, size: int = 48) -> np.ndarray:
    """A bright bar that crosses a dim noisy picture to the right (+1) or to the left (-1)."""
    random = np.random.default_rng(seed)
    frames = random.integers(0, 20, (num_frames, size, size, 3), dtype=np.uint8)
    for i in range(num_frames):
        x = 4 * (i if direction > 0 else num_frames - 1 - i) + int(random.integers(0, 3))
        frames[i, :, x : x + 10] = 230
    return frames


def blobs(name: str, num_frames: int = 12, size: int = 48) -> np.ndarray:
    """A film of its own for each name: coloured squares that drift over a background of large noise."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    background = random.integers(0, 120, (size // 8, size // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    frames = np.repeat(background[None], num_frames, 0)
    for _ in range(3):
        color, at, speed = random.integers(120, 255, 3), random.integers(0, size - 12, 2), random.integers(-3, 4, 2)
        for i in range(num_frames):
            y, x = np.clip(at + i * speed, 0, size - 12)
            frames[i, y : y + 12, x : x + 12] = color
    return frames


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    return encode


@pytest.fixture(scope="session")
def ramp_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 frames of 64x48 px at 10 frames per second, frame i grey 20 * i."""
    return encode(tmp_path_factory.mktemp("ramp") / "ramp.mp4", gray_ramp())


@pytest.fixture(scope="session")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two classes, left and right, twenty videos each."""
    root = tmp_path_factory.mktemp("bars")
    for name, direction in (("left", -1), ("right", 1)):
        for number in range(20):
            encode(root / name / f"{number}.mp4", moving_bar(direction, seed=number))
    return root


@pytest.fixture(scope="session")
def bars_dataset(bars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bars` prepared: 12 videos of each class to train, 4 to validate, 4 to test."""
    from data_prep.prepare import main

    dataset = tmp_path_factory.mktemp("prepared") / "bars"
    main([str(bars), str(dataset), "--splits", "0.6", "0.2", "0.2", "--seed", "3", "--num_proc", "1"])
    return dataset


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny TimeSformer of 7 classes, random weights, saved with its processor."""
    import torch

    from finetune.arguments import ModelArguments
    from finetune.weights import load_start

    path = tmp_path_factory.mktemp("random_checkpoint")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = load_start(ModelArguments(model_name_or_path="timesformer-tiny"), [f"class {i}" for i in range(7)])
    start.model.save_pretrained(path)
    start.processor.save_pretrained(path)
    return str(path)


@pytest.fixture
def edited(random_checkpoint: str, tmp_path: Path) -> Callable[[dict], str]:
    """The checkpoint with other words in its config."""

    def edit(changes: dict) -> str:
        folder = tmp_path / "edited"
        folder.mkdir()
        for path in Path(random_checkpoint).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        return str(folder)

    return edit
