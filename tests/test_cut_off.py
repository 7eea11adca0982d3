"""data_prep.cut_off: half a download is noticed where the container says how long the whole is."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from conftest import blobs

from data_prep.cut_off import missing_share
from data_prep.labeled import LabeledVideo, Span
from data_prep.scan import Scanned, Storing, scan_video


def write(path: Path, codec: str, pix_fmt: str, **options: str) -> bytes:
    """The bytes of a video of 40 frames, each of them a key frame."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 48, pix_fmt
        stream.codec_context.gop_size = 1
        for frame in blobs("cut", 40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pix_fmt)))
        container.mux(stream.encode())
    return path.read_bytes()


def scan(path: Path, span: Span | None = None) -> Scanned:
    return scan_video(LabeledVideo(path, path.name, ("run",), span=span), "key", Storing("files"))[0]


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options"),
    [
        ("a.mp4", "libx264", "yuv420p", {"movflags": "faststart"}),
        ("a.avi", "mjpeg", "yuvj420p", {}),
        ("a.mkv", "mjpeg", "yuvj420p", {}),
        ("a.webm", "libvpx", "yuv420p", {}),
    ],
)
def test_a_file_that_lacks_much_is_refused_and_one_that_lacks_little_is_kept_as_damaged(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, options: dict[str, str]
) -> None:
    path = tmp_path / name
    whole = write(path, codec, pix_fmt, **options)
    assert missing_share(path) == 0 and not scan(path).is_damaged
    path.write_bytes(whole[: len(whole) * 6 // 10])
    assert missing_share(path) == pytest.approx(0.4, abs=0.01)
    assert scan(path).reason == "is cut off: 40% of its bytes are missing at the end"
    assert scan(path, Span(0, 5, "frames")).reason == "", "this part is there"
    path.write_bytes(whole[: len(whole) * 88 // 100])
    kept = scan(path)
    assert kept.reason == "" and kept.is_damaged
    assert kept.source is not None and 25 <= kept.source.num_frames < 40


def test_a_header_that_claims_too_much_of_a_whole_file_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    whole = write(path, "mjpeg", "yuvj420p")
    for size in (3 * len(whole), 0, 0xFFFFFFFF):
        path.write_bytes(whole[:4] + size.to_bytes(4, "little") + whole[8:])
        assert scan(path).reason == "" and not scan(path).is_damaged
    mp4 = tmp_path / "a.mp4"
    mp4.write_bytes(write(mp4, "libx264", "yuv420p") + b"TAG" + b"title".ljust(125))  # read as a box of 1.4 GB
    assert missing_share(mp4) == 0


def test_an_edit_list_that_leaves_most_frames_out_is_no_damage(tmp_path: Path) -> None:
    """As phones write it: the file claims 40 frames and shows 10 (ISO 14496-12, 8.6.6)."""
    path = tmp_path / "a.mp4"
    whole = bytearray(write(path, "libx264", "yuv420p"))
    entry = whole.index(b"elst") + 12
    whole[entry : entry + 4] = (400).to_bytes(4, "big")  # of 1600 ms
    path.write_bytes(whole)
    kept = scan(path)
    assert kept.source is not None and kept.source.num_frames == 10
    assert not kept.is_damaged


def test_any_bytes_have_a_share(tmp_path: Path) -> None:
    path = tmp_path / "a"
    random = np.random.default_rng(0)
    for start in (b"", b"RIFF", b"\x1a\x45\xdf\xa3", b"\0\0\0\x08free", b"\0\0\0\x01mdat" + b"\xff" * 8):
        for length in range(0, 60, 3):
            path.write_bytes(start + random.bytes(length))
            assert 0 <= missing_share(path) <= 1
