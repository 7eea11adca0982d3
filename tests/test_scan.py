"""data_prep.scan: one video, decoded once."""

from __future__ import annotations

import ctypes
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import blobs
from PIL import Image

from data_prep.encode import ClipWriter
from data_prep.labeled import LabeledVideo
from data_prep.scan import Storing, scan_video


def test_a_clip_has_the_same_bytes_whatever_lay_in_memory_before() -> None:
    """x264's mbtree reads memory that it has not written, which made the bytes of a clip another every time."""
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 255, (21, 56, 3), dtype=np.uint8)).resize((296, 122))
    frames = np.stack([np.asarray(picture)[10 + i % 5 :][:72, i : i + 96] for i in range(40)])
    noisy = np.clip(frames + random.normal(0, 6, frames.shape), 0, 255).astype(np.uint8)
    try:
        mallopt = ctypes.CDLL(None).mallopt  # of glibc
    except (OSError, AttributeError, TypeError):
        pytest.skip("needs glibc, to fill memory with a value")
    mmap_threshold, perturb = -3, -6
    mallopt(mmap_threshold, 1 << 30)
    clips = []
    try:
        for value in (0, 85, 170, 255):
            mallopt(perturb, value)
            writer = ClipWriter((72, 96), 25.0)
            for index, frame in enumerate(noisy):
                writer.add(frame, index / 25)
            clips.append(writer.close())
    finally:
        mallopt(perturb, 0)
        mallopt(mmap_threshold, 128 << 10)
    assert len(set(clips)) == 1


@pytest.mark.parametrize(("transfer", "hdr"), [(16, True), (18, True), (1, False)])
def test_hdr_is_noticed(tmp_path: Path, transfer: int, hdr: bool) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p10le"
        stream.codec_context.color_trc = transfer
        for frame in blobs("hdr", 3, 32):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p10le")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    scanned, _ = scan_video(LabeledVideo(path, "a.mkv", ("run",)), "key", Storing("files"))
    assert scanned.hdr is hdr
