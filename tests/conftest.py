"""Real tiny videos and a real tiny TimeSformer; no network."""

from __future__ import annotations

import json
import os
import signal
import zlib

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

import gc
import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import av
import numpy as np
import pytest
from forks import Forks, stay_on_one_thread

# A stand-in Hub (HubServer in one file); not part of this project.
SERVER = Path(os.environ.get("STAND_IN_HUB", Path(__file__).parents[2] / "shared" / "tools" / "hub_server.py"))
Run = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_finish() -> None:
    """What is imported is no garbage: each collection, of which accelerate makes one a training, need not look at it.

    What is this small one thread does as soon as two, which wait for each other by spinning.
    """
    gc.freeze()
    if "torch" in sys.modules:
        stay_on_one_thread()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of what another extra than [test] installs are left out without it, unless `-m` asks for them."""
    for mark in item.iter_markers("extra"):
        for module in mark.args:
            if "extra" in item.config.getoption("markexpr"):
                importlib.import_module(module)
            else:
                pytest.importorskip(module)


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


# All eight ways in which a phone may hold its picture: the linear part (a, b, c, d) of a display matrix.
ORIENTATIONS = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]  # fmt: skip


def turned(path: Path, linear: tuple[int, int, int, int]) -> Path:
    """The mp4 with another display matrix (a b u, c d v, x y w) in its track header (ISO 14496-12, 8.3.2)."""
    with av.open(str(path)) as container:
        width, height = container.streams.video[0].width, container.streams.video[0].height
    a, b, c, d = linear
    shift = (width * (a < 0) + height * (c < 0), width * (b < 0) + height * (d < 0))
    values = [value << 16 for value in (a, b, 0, c, d, 0, *shift)] + [1 << 30]
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    new = path.with_name(f"{path.stem}_turned.mp4")
    new.write_bytes(data)
    return new


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

    from finetune.model.wanted import ModelArguments
    from finetune.model.weights import load_start

    path = tmp_path_factory.mktemp("random_checkpoint")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = load_start(ModelArguments(model_name_or_path="timesformer-tiny"), [f"class {i}" for i in range(7)])
    start.model.save_pretrained(path)
    start.processor.save_pretrained(path)
    return str(path)


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes half the time in which a few videos are prepared. test_page.py looks at what is drawn."""
    monkeypatch.setattr("data_prep.report.page.draw_charts", lambda facts, folder: [])


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes half the time of a tiny run. test_run.py and test_evaluate.py look at what is drawn."""
    monkeypatch.setattr("finetune.sharing.report.plot_curves", lambda log, path: None)
    monkeypatch.setattr("finetune.sharing.report.write_pictures", lambda evaluation, maker, folder: None)


@pytest.fixture(scope="session")
def hub_port() -> int:
    """Where a stand-in Hub listens when a test starts one: clients are told when they are imported, before any test."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def forks(hub_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Runs commands; a stand-in Hub is all they can reach."""
    hub = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub_port}",
        "HF_HOME": str(tmp_path_factory.mktemp("huggingface")),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    started = Forks({**os.environ, **hub})
    yield started
    started.close()


@pytest.fixture
def hub(tmp_path: Path, hub_port: int) -> Iterator[Any]:
    if not SERVER.is_file():
        pytest.skip(f"no stand-in Hub at STAND_IN_HUB={SERVER}")
    spec = importlib.util.spec_from_file_location("hub_server", SERVER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hub_server"] = module
    spec.loader.exec_module(module)
    with module.HubServer(
        tmp_path / "hub", "hf_secret_token", user="me", read_token="hf_read_token", port=hub_port
    ) as server:
        yield server


def when_asked(hub: Any, pattern: str, folder: Path, end: signal.Signals) -> Thread:
    """Signal the command that writes `folder` as soon as the Hub is asked for `pattern`; returns when it was."""

    def wait_and_end() -> None:
        while not hub.requests(pattern):
            time.sleep(0.02)
        os.kill(int((folder.parent / f".{folder.name}.lock").read_text().split()[0]), end)

    thread = Thread(target=wait_and_end, daemon=True)
    thread.start()
    return thread


class OddHub:
    """Where the Hub should be, something that answers every request alike: `status` and `answer`. With `drip`, a byte of a
    long answer now and then.
    """

    def __init__(self, port: int) -> None:
        self.status, self.answer, self.drip = 200, b"", False
        odd = self

        class Handler(BaseHTTPRequestHandler):
            def do_any(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                kept = self.path.endswith("/agent-harnesses")  # by the client for a day, so for the next tests
                answer, drip = (b"{}", False) if kept else (odd.answer, odd.drip)
                self.send_response(200 if kept else odd.status)
                self.send_header("Content-Length", str(len(answer) + 1_000_000 * drip))
                self.end_headers()
                with suppress(OSError):
                    self.wfile.write(answer)
                    while drip and odd.drip:
                        time.sleep(0.1)
                        self.wfile.write(b" ")

            do_GET = do_HEAD = do_POST = do_PUT = do_any

            def log_message(self, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.drip = False
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def odd_hub(hub_port: int) -> Iterator[OddHub]:
    odd = OddHub(hub_port)
    yield odd
    odd.close()


@pytest.fixture
def python(hub: Any, forks: Forks, tmp_path: Path) -> Run:
    """A command with the real client, pointed at the stand-in."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return forks.run(*arguments, cwd=tmp_path, **{**hub.env(), **env})

    return run


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
