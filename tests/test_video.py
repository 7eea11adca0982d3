"""data_prep.video: what is decoded is what is there, and no file can do more than be refused."""

from __future__ import annotations

import os
import socket
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import ORIENTATIONS, encode, gray_ramp, spoiled_mjpeg, turned
from PIL import Image

from data_prep.frame import Clock
from data_prep.images import decode_jpeg, encode_jpeg
from data_prep.labeled import LabeledVideo, Span
from data_prep.limits import VideoError
from data_prep.scan import Storing, scan_video, video_key
from data_prep.video import open_video, probe, read_frames


def test_probe_measures_the_real_frames(ramp_video: Path) -> None:
    info = probe(ramp_video)
    assert (info.num_frames, info.height, info.width, info.num_bad_packets) == (12, 48, 64, 0)
    assert info.fps == pytest.approx(10)
    assert info.duration == pytest.approx(1.2)


def test_frames_are_those_asked_for_in_the_order_asked(ramp_video: Path) -> None:
    frames = read_frames(ramp_video, [0, 7, 3, 7, 11])
    assert frames.shape == (5, 48, 64, 3) and frames.dtype == np.uint8
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), [0, 140, 60, 140, 220], atol=3)


def test_bytes_give_the_same_frames_as_the_path(ramp_video: Path) -> None:
    assert probe(ramp_video.read_bytes()) == probe(ramp_video)
    np.testing.assert_array_equal(read_frames(ramp_video.read_bytes(), [2, 5]), read_frames(ramp_video, [2, 5]))


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.avi", "mpeg4", "yuv420p"), ("a.mkv", "libx264", "yuv420p"), ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.mov", "mjpeg", "yuvj420p"), ("a.ts", "mpeg2video", "yuv420p"), ("a.mpg", "mpeg1video", "yuv420p"),
        ("a.flv", "flv", "yuv420p"), ("a.gif", "gif", "rgb8"), ("a.wmv", "wmv2", "yuv420p"), ("a.3gp", "mpeg4", "yuv420p"),
    ],
)  # fmt: skip
def test_every_container_gives_every_frame(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    path = encode(tmp_path / name, gray_ramp(), rate=25, codec=codec, pix_fmt=pix_fmt)
    assert probe(path).num_frames == 12
    np.testing.assert_allclose(read_frames(path, range(12)).mean(axis=(1, 2, 3)), 20 * np.arange(12), atol=14)


def _apply(matrix: tuple[int, ...], x: float, y: float) -> tuple[float, float]:
    """Where the display matrix (a b u, c d v, x y w) puts a point: ISO 14496-12, 8.2.2.1."""
    a, b, _, c, d, _, tx, ty, _ = matrix
    return a * x + c * y + tx, b * x + d * y + ty


@pytest.mark.parametrize("linear", ORIENTATIONS)
def test_turned_and_mirrored_videos_come_upright(tmp_path: Path, linear: tuple[int, int, int, int]) -> None:
    """All eight ways in which a phone may hold its picture; the marked corner must land where the matrix puts it."""
    frames = np.zeros((4, 48, 64, 3), np.uint8)
    frames[:, :16, :16] = 255
    a, b, c, d = linear
    matrix = (a, b, 0, c, d, 0, 64 * (a < 0) + 48 * (c < 0), 64 * (b < 0) + 48 * (d < 0), 1)
    path = turned(encode(tmp_path / "a.mp4", frames), linear)
    info, read = probe(path), read_frames(path, [0])[0]
    assert read.shape[:2] == (info.height, info.width) == ((48, 64) if a else (64, 48))
    x, y = _apply(matrix, 8, 8)
    corners = {(y, x): int(read[y, x, 0]) for y in (0, -1) for x in (0, -1)}
    assert max(corners, key=lambda key: corners[key]) == (-1 * (y > info.height / 2), -1 * (x > info.width / 2))
    with open_video(path) as video:
        small = next(iter(video)).gray(4)
    assert np.unravel_index(small.argmax(), (4, 4)) == (3 * (y > info.height / 2), 3 * (x > info.width / 2))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.mp4", b""),
        ("text.mp4", b"not a video at all\n" * 50),
        ("page.mp4", b"<!DOCTYPE html><html><body>404</body></html>"),
        ("zeros.mp4", bytes(5000)),
        ("script.mp4", b"ffconcat version 1.0\nfile ramp.mp4\n"),
        ("session.mp4", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, ramp_video: Path, name: str, content: bytes) -> None:
    (tmp_path / "ramp.mp4").write_bytes(ramp_video.read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError):
        probe(tmp_path / name)
    with pytest.raises(VideoError):
        probe(content)


def test_a_playlist_reads_no_file_and_opens_no_connection(tmp_path: Path, ramp_video: Path) -> None:
    """A video file is untrusted: FFmpeg's playlists and scripts must not be followed, by path or from bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x.ts"
        for target in (url, str(ramp_video)):
            playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n".encode()
            path = tmp_path / "list.mp4"
            path.write_bytes(playlist)
            for source in (path, playlist):
                with pytest.raises(VideoError):
                    probe(source)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("name", ["http:x.mp4", "concat:a.mp4|b.mp4", "file:x.mp4", "a%03d.mp4", "-b.mp4"])
def test_a_name_is_never_a_protocol(
    tmp_path: Path, ramp_video: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(ramp_video.read_bytes())
    assert probe(name).num_frames == 12


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    reasons = []

    def try_it() -> None:
        with pytest.raises(VideoError) as caught:
            probe(tmp_path / "pipe.mp4")
        reasons.append(str(caught.value))

    thread = threading.Thread(target=try_it, daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert reasons == ["is not a regular file"]


def test_a_picture_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.mp4").write_bytes(encode_jpeg(gray_ramp()[3]))
    with pytest.raises(VideoError):
        probe(tmp_path / "photo.mp4")
    with pytest.raises(VideoError, match="No such file"):
        probe(tmp_path / "none.mp4")
    with pytest.raises(VideoError, match="only one frame"):
        probe(encode(tmp_path / "one.mp4", gray_ramp(1)))


def test_a_sound_file_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="no video stream"):
        probe(tmp_path / "sound.mp4")


def test_frames_of_absurd_size_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = encode(tmp_path / "bomb.gif", gray_ramp(2, 16, 16), codec="gif", pix_fmt="rgb8")
    data = bytearray(path.read_bytes())
    data[6:10] = (16000).to_bytes(2, "little") * 2  # the logical screen's size
    path.write_bytes(data)
    with pytest.raises(VideoError, match="16000x16000"):
        probe(path)


def test_a_damaged_packet_costs_itself_alone(tmp_path: Path) -> None:
    """MJPEG packets are independent: with one of them spoiled the others must still be read."""
    path = spoiled_mjpeg(tmp_path / "a.avi")
    info = probe(path)
    assert info.num_bad_packets == 1
    assert info.num_frames == 11
    frames = read_frames(path, range(11)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(frames, [20 * i for i in range(12) if i != 5], atol=6)


def test_a_mostly_damaged_video_is_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.avi", gray_ramp(), rate=25, codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    starts = [i for i in range(len(data)) if data[i : i + 3] == b"\xff\xd8\xff"]
    for start, end in zip(starts[4:11], starts[5:12]):
        data[start : end - 8] = bytes(end - 8 - start)
    path.write_bytes(data)
    with pytest.raises(VideoError, match="is damaged"):
        probe(path)


def test_a_truncated_mp4_is_refused_with_a_reason(tmp_path: Path, ramp_video: Path) -> None:
    data = ramp_video.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match="cannot be opened as a video"):
        probe(tmp_path / "cut.mp4")


@pytest.mark.parametrize("extension", ["ts", "mkv", "avi", "mp4", "gif"])
def test_bytes_at_random_are_frames_or_a_reason(tmp_path: Path, extension: str) -> None:
    """Whatever a file holds, the reader's only error is `VideoError`."""
    codec, pix_fmt = ("gif", "rgb8") if extension == "gif" else ("mpeg2video", "yuv420p")
    path = encode(tmp_path / f"a.{extension}", gray_ramp(30), rate=25, codec=codec, pix_fmt=pix_fmt)
    whole, outcomes = np.frombuffer(path.read_bytes(), np.uint8), set()
    for seed in range(200):
        random = np.random.default_rng(seed)
        damaged = whole.copy()
        places = random.random(len(whole)) < 0.001 * (1 + seed % 4)
        damaged[places] = random.integers(0, 256, places.sum())
        path.write_bytes(damaged.tobytes())
        try:
            outcomes.add(probe(path).num_frames)
        except VideoError as error:
            outcomes.add(str(error))
    assert len(outcomes) > 2


def test_asking_past_the_end_says_how_many_frames_there_are(ramp_video: Path) -> None:
    with pytest.raises(VideoError, match="has 12 frames, but frame 12 was asked for"):
        read_frames(ramp_video, [0, 12])


def test_a_stored_frame_that_is_no_jpeg_is_refused() -> None:
    with pytest.raises(VideoError, match="not a JPEG"):
        decode_jpeg(b"GIF89a" + bytes(50))


def test_a_part_of_a_file_is_measured_alone(ramp_video: Path) -> None:
    """12 frames at 10 per second: from 0.3 s up to, not including, 0.7 s."""
    for span in (Span(0.3, 0.7), Span(3, 7, "frames")):
        info = probe(ramp_video, span)
        assert (info.num_frames, info.first_frame) == (4, 3)
        assert info.fps == pytest.approx(10) and info.duration == pytest.approx(0.4)
    assert probe(ramp_video, Span(8, 9999, "frames")).num_frames == 4, "an end past the end is the end"
    with pytest.raises(VideoError, match="no frame from 50 to 60 seconds: the last one is at 1.1"):
        probe(ramp_video, Span(50, 60))


def frame_folder(folder: Path, numbers: list[int], name: str = "frame{}.png") -> Path:
    folder.mkdir()
    for number in numbers:
        Image.fromarray(np.full((20, 30, 3), 10 * number, np.uint8)).save(folder / name.format(number))
    return folder


def test_a_folder_of_frames_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    folder = frame_folder(tmp_path / "a", list(range(1, 13)))
    (folder / "notes.txt").write_text("x")
    info = probe(folder)
    assert (info.num_frames, info.height, info.width, info.fps) == (12, 20, 30, None)
    assert read_frames(folder, [0, 1, 9, 11])[:, 0, 0, 0].tolist() == [10, 20, 100, 120]


def test_a_broken_frame_costs_itself_and_a_pipe_does_not_block(tmp_path: Path) -> None:
    folder = frame_folder(tmp_path / "a", list(range(10)))
    (folder / "frame3.png").write_bytes(b"")
    assert (probe(folder).num_frames, probe(folder).num_bad_packets) == (9, 1)
    os.mkfifo(folder / "frame99.png")
    assert probe(folder).num_bad_packets == 2
    for number in (4, 5, 6):
        (folder / f"frame{number}.png").write_bytes(b"x")
    with pytest.raises(VideoError, match="is damaged: 5 of 11"):
        probe(folder)


def test_frames_that_are_no_files_cost_themselves(tmp_path: Path) -> None:
    """A pipe would block and a device never end, also where a folder's bytes are read for its digest and its key."""
    folder = frame_folder(tmp_path / "a", list(range(16)))
    os.mkfifo(folder / "frame16.png")
    (folder / "frame17.png").symlink_to("/dev/zero")
    (folder / "frame18.png").symlink_to(tmp_path / "nothing")
    (folder / "frame19.png").mkdir()
    video = LabeledVideo(folder, "a", ("run",))
    key, _ = video_key(video)
    scanned, _ = scan_video(video, key, Storing("files"))
    assert scanned.reason == "" and scanned.source is not None
    assert (scanned.source.num_frames, scanned.source.num_bad_packets) == (16, 4)
    assert scanned.num_bytes == sum((folder / f"frame{number}.png").stat().st_size for number in range(16))
    (folder / "frame3.png").write_bytes(b"other")
    assert video_key(video)[0] != key, "a change is seen in spite of them"


def test_time_has_a_limit(ramp_video: Path) -> None:
    with pytest.raises(VideoError, match="takes more than 0 s"), open_video(ramp_video, time_limit=0) as video:
        list(video)


def test_the_clock_trusts_timestamps_until_they_turn_back() -> None:
    def times(pts: list, fps: float | None) -> list:
        clock = Clock(Fraction(1, 25), fps)
        return [clock.seconds(value, index) for index, value in enumerate(pts)]

    assert times([100, 103, 110], 25) == pytest.approx([0, 0.12, 0.4])  # a variable rate
    # Packed B-frames: delivered in order, stamped out of it.
    assert times([1, 2, 4, 3, 5, 7, 6], 25) == pytest.approx([0, 0.04, 0.12, 0.12, 0.16, 0.2, 0.24])
    assert times([None, None, None], 10) == pytest.approx([0, 0.1, 0.2])
    assert times([None, None], None) == [None, None]


@pytest.mark.parametrize(("rate", "fps"), [(25, 25.0), (1_000_000_000, None)])
def test_a_frame_rate_that_cannot_be_is_none(tmp_path: Path, rate: int, fps: float | None) -> None:
    """An AVI has no timestamps: its header's dwScale and dwRate alone say how fast it runs."""
    path = encode(tmp_path / "a.avi", gray_ramp(), rate=25, codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    at = data.index(b"strh") + 28
    data[at : at + 8] = (1).to_bytes(4, "little") + rate.to_bytes(4, "little")
    path.write_bytes(data)
    info = probe(path)
    assert (info.num_frames, info.fps, info.duration) == (12, fps, fps and 12 / fps)
