"""data_prep.index and data_prep.indexed: whatever is read by an index is what decoding from the start gives, to the bit."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import blobs, spoiled_mjpeg

from data_prep import video as video_module
from data_prep.index import PacketIndex
from data_prep.indexed import StaleIndex, read_indexed
from data_prep.known import key_of, known_index
from data_prep.labeled import Span
from data_prep.video import open_video, probe, read_frames

H264 = "keyint=12:min-keyint=4:scenecut=40:log-level=none"
KINDS = {
    "h264_b.mp4": ("libx264", {"bf": "3", "x264-params": H264}, "yuv420p"),
    "h264_pyramid.mkv": ("libx264", {"bf": "7", "x264-params": H264 + ":b-pyramid=normal:ref=4"}, "yuv420p"),
    "h264_open.mp4": ("libx264", {"bf": "3", "x264-params": H264 + ":open-gop=1"}, "yuv420p"),
    "h264_annexb.avi": ("libx264", {"bf": "2", "x264-params": H264}, "yuv420p"),
    "h264_inband.mp4": ("libx264", {"bf": "2", "x264-params": H264 + ":repeat-headers=1"}, "yuv420p"),
    "h264_interlaced.mp4": ("libx264", {"bf": "2", "x264-params": H264 + ":interlaced=1"}, "yuv420p"),
    "h264_10bit.mp4": ("libx264", {"bf": "3", "x264-params": H264}, "yuv420p10le"),
    "h264_intra.mov": ("libx264", {"g": "1", "x264-params": "log-level=none"}, "yuv420p"),
    "h264_444.mp4": ("libx264", {"bf": "2", "x264-params": H264}, "yuv444p"),
    "h264.flv": ("libx264", {"bf": "2", "x264-params": H264}, "yuv420p"),
    "h264.ts": ("libx264", {"bf": "3", "x264-params": H264}, "yuv420p"),
    "hevc.mp4": ("libx265", {"x265-params": "keyint=12:bframes=3:log-level=none:pools=1"}, "yuv420p"),
    "hevc_closed.mkv": ("libx265", {"x265-params": "keyint=12:bframes=3:open-gop=0:log-level=none:pools=1"}, "yuv420p"),
    "hevc_layers.mp4": ("libx265", {"x265-params": "keyint=12:bframes=4:temporal-layers=3:log-level=none:pools=1"}, "yuv420p"),
    "vp9.webm": ("libvpx-vp9", {"g": "10", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "8", "auto-alt-ref": "1"}, "yuv420p"),
    "vp8.webm": ("libvpx", {"g": "10", "deadline": "realtime", "cpu-used": "8"}, "yuv420p"),
    "av1.mp4": ("libsvtav1", {"preset": "12", "g": "12", "svtav1-params": "lp=1"}, "yuv420p"),
    "mpeg4.avi": ("mpeg4", {"g": "8"}, "yuv420p"),
    "mpeg4_b.avi": ("mpeg4", {"g": "8", "bf": "2"}, "yuv420p"),
    "mpeg4_b.mp4": ("mpeg4", {"g": "8", "bf": "2"}, "yuv420p"),
    "mjpeg.avi": ("mjpeg", {}, "yuvj420p"),
    "mpeg2.mkv": ("mpeg2video", {"g": "8", "bf": "2"}, "yuv420p"),
    "theora.ogv": ("wmv2", {"g": "8"}, "yuv420p"),
}  # fmt: skip
KINDS["wmv2.wmv"] = KINDS.pop("theora.ogv")
INDEXED = {name for name in KINDS if not name.startswith(("mpeg2", "wmv2", "h264_444")) and not name.endswith(".ts")}


SIZE = 64  # px; x265 writes past its memory below that


def film(num_frames: int = 45) -> np.ndarray:
    """Two shots that move, so that frames differ and a cut makes a key frame."""
    return np.concatenate([blobs("first", num_frames // 2, SIZE), blobs("second", num_frames - num_frames // 2, SIZE)])


def write(path: Path, kind: str, variable: bool = False) -> Path:
    codec, options, pix_fmt = KINDS[kind]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = SIZE, SIZE, pix_fmt
        stream.codec_context.thread_count = 1
        if variable:
            stream.codec_context.time_base = Fraction(1, 1000)
        random, now = np.random.default_rng(0), 0
        for pixels in film():
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
            if variable:
                now += int(random.integers(10, 90))
                frame.pts, frame.time_base = now, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def from_start(source: Path | bytes) -> np.ndarray:
    """Every frame, decoded in order: what all other ways must equal."""
    with open_video(source) as video:
        frames = iter(video)
        first = next(frames)
        return np.stack([first.rgb(first.size), *(frame.rgb(first.size) for frame in frames)])


def index_of(source: Path | bytes) -> PacketIndex | None:
    with open_video(source, indexing=True) as video:
        for _ in video:
            pass
        return video.index()


def subsets(num_frames: int, seed: int) -> Iterator[list[int]]:
    random = np.random.default_rng(seed)
    for size in (1, 2, 3, 8, 8, num_frames):
        yield sorted(random.choice(num_frames, size, replace=False).tolist())
    yield [num_frames - 1]
    yield list(range(0, num_frames, 7))


def check(source: Path | bytes, index: PacketIndex) -> None:
    """Through its bytes, as a dataset keeps it; by `read_indexed` itself, which does not fall back."""
    truth = from_start(source)
    again = PacketIndex.from_bytes(index.to_bytes())
    assert again is not None and index.num_frames == len(truth)
    for wanted in subsets(len(truth), seed=len(truth)):
        frames = read_indexed(
            source if isinstance(source, bytes) else str(source),
            again,
            wanted,
            truth.shape[1:3],
            (0, 0, *truth.shape[1:3]),
        )
        np.testing.assert_array_equal(frames, truth[wanted])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_selected_frames_are_those_of_decoding_everything(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / kind, kind)
    index = index_of(path)
    assert (index is not None) == (kind in INDEXED)
    if index is not None:
        check(path, index)
        check(path.read_bytes(), index)
    truth = from_start(path)
    np.testing.assert_array_equal(read_frames(path, [9, 2, 30, 9]), truth[[9, 2, 30, 9]])
    np.testing.assert_array_equal(read_frames(path, [40]), truth[[40]])


@pytest.mark.parametrize("kind", ["h264_b.mp4", "hevc.mp4", "vp9.webm", "h264_pyramid.mkv"])
def test_a_variable_rate_changes_nothing(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / kind, kind, variable=True)
    index = index_of(path)
    assert index is not None
    check(path, index)


def test_little_is_decoded(tmp_path: Path) -> None:
    """Of 45 frames with a key frame every 12 at most, one frame needs those of its own group that others refer to."""
    index = index_of(write(tmp_path / "h264_b.mp4", "h264_b.mp4"))
    assert index is not None and len(index.entries) >= 4
    assert all(len(packets) <= 8 for packets, _ in index.plan([40]))
    intra = index_of(write(tmp_path / "h264_intra.mov", "h264_intra.mov"))
    assert intra is not None and [packets for packets, _ in intra.plan([3, 17])] == [[3], [17]]


def _edited(path: Path, media_time: int) -> Path:
    """The mp4 with an edit list that starts `media_time` later (ISO 14496-12, 8.6.6), as phones write it."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4
    assert data[at] == 0, "version 0: 32-bit times"
    data[at + 12 : at + 16] = media_time.to_bytes(4, "big")
    edited = path.with_name("edited.mp4")
    edited.write_bytes(data)
    return edited


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "h264_b.mp4", "h264_b.mp4")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        shift = round(17 / 25 / stream.time_base)  # in the middle of a group
    edited = _edited(path, shift)
    truth = from_start(edited)
    assert 20 < len(truth) < 45
    index = index_of(edited)
    assert index is not None
    check(edited, index)


def test_a_turned_video_is_read_upright(tmp_path: Path) -> None:
    path = write(tmp_path / "h264_b.mp4", "h264_b.mp4")
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    matrix = (0, 1 << 16, 0, -(1 << 16), 0, 0, SIZE << 16, 0, 1 << 30)
    data[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data)
    index = index_of(path)
    assert index is not None and index.picture.turns
    check(path, index)


def test_packed_b_frames_have_no_index(tmp_path: Path) -> None:
    """Two pictures in one packet, as most UCF101 clips have them: shown one packet later than stored."""
    path = write(tmp_path / "mpeg4_b.avi", "mpeg4_b.avi")
    with av.open(str(path)) as source:
        stream = source.streams.video[0]
        packets = [bytes(packet) for packet in source.demux(stream) if packet.size]
        extradata, rate = stream.codec_context.extradata, stream.average_rate
    packed: list[bytes] = []
    for data in packets:
        if data[data.index(b"\0\0\1\xb6") + 4] >> 6 == 2 and packed:
            packed[-1] += data
            packed.append(b"\0\0\1\xb6\x50\x7f")  # a picture that is not coded
        else:
            packed.append(data)
    with av.open(str(tmp_path / "packed.avi"), "w") as target:
        out = target.add_stream("mpeg4", rate=rate)
        out.width, out.height, out.pix_fmt = SIZE, SIZE, "yuv420p"
        out.codec_context.extradata = extradata
        for number, data in enumerate(packed):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = out, number, number
            packet.time_base = 1 / rate
            packet.is_keyframe = number % 8 == 0
            target.mux_one(packet)
    assert index_of(tmp_path / "packed.avi") is None
    truth = from_start(tmp_path / "packed.avi")
    np.testing.assert_array_equal(read_frames(tmp_path / "packed.avi", [2, len(truth) - 2]), truth[[2, -2]])


def test_a_damaged_file_has_no_index(tmp_path: Path) -> None:
    path = spoiled_mjpeg(tmp_path / "a.avi")
    assert index_of(path) is None


def test_a_key_frame_is_believed_only_if_the_bitstream_says_so(tmp_path: Path) -> None:
    """A container that claims that every picture is one."""
    path = write(tmp_path / "h264_b.mp4", "h264_b.mp4")
    with av.open(str(path)) as source, av.open(str(tmp_path / "lies.mkv"), "w") as target:
        out = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.is_keyframe, packet.stream = True, out
                target.mux(packet)
    index = index_of(tmp_path / "lies.mkv")
    assert index is not None and len(index.entries) < 12
    check(tmp_path / "lies.mkv", index)


def test_an_index_of_another_file_is_not_used(tmp_path: Path) -> None:
    path, other = write(tmp_path / "h264_b.mp4", "h264_b.mp4"), write(tmp_path / "h264_open.mp4", "h264_open.mp4")
    index = index_of(other)
    assert index is not None
    with pytest.raises(StaleIndex):
        read_indexed(str(path), index, [3], (SIZE, SIZE), (0, 0, SIZE, SIZE))
    np.testing.assert_array_equal(read_frames(path, [3, 30], index), from_start(path)[[3, 30]])


def test_a_spoiled_index_is_no_index(tmp_path: Path) -> None:
    """It comes with a dataset, so it is untrusted: no crash, and no memory beyond the file's size."""
    path = write(tmp_path / "h264_b.mp4", "h264_b.mp4")
    index = index_of(path)
    assert index is not None
    plain = zlib.decompress(index.to_bytes())
    random = np.random.default_rng(0)
    truth = from_start(path)
    for _ in range(300):
        spoiled = np.frombuffer(plain, np.uint8).copy()
        spoiled[random.integers(0, len(spoiled), 3)] = random.integers(0, 256, 3)
        again = PacketIndex.from_bytes(zlib.compress(spoiled.tobytes()))
        if again is not None:
            assert (again.offsets + again.sizes).max() <= path.stat().st_size
            assert read_frames(path, [3, 30], again).shape == truth[[3, 30]].shape
    assert PacketIndex.from_bytes(b"") is None and PacketIndex.from_bytes(zlib.compress(b"{}")) is None


def test_a_file_seen_once_is_read_by_its_index_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "h264_b.mp4", "h264_b.mp4")
    probe(path)
    truth = from_start(path)
    monkeypatch.setattr(video_module, "open_video", None)
    np.testing.assert_array_equal(read_frames(path, [7, 40, 7]), truth[[7, 40, 7]])


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "h264_b.mp4")
    probe(path)
    write(tmp_path / "b.mp4", "h264_open.mp4").replace(path)
    np.testing.assert_array_equal(read_frames(path, [3, 30]), from_start(path)[[3, 30]])


def test_the_beginning_that_was_seen_can_be_read_by_index(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "h264_b.mp4")
    probe(path, Span(0, 20, "frames"))
    truth = from_start(path)
    np.testing.assert_array_equal(read_frames(path, [3, 15]), truth[[3, 15]])
    np.testing.assert_array_equal(read_frames(path, [3, 44]), truth[[3, 44]])


def test_frames_are_scaled_once_and_never_enlarged(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "h264_b.mp4")
    assert read_frames(path, [0, 30], short_side=24).shape == (2, 24, 24, 3)
    assert read_frames(path, [0, 30], short_side=480).shape == (2, SIZE, SIZE, 3)
    probe(path)
    assert read_frames(path, [0, 30], short_side=24).shape == (2, 24, 24, 3)


def test_a_part_of_the_frames_is_the_same_part_either_way(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "h264_b.mp4")
    truth = from_start(path)[[5, 40]]

    def window(size: tuple[int, int]) -> tuple[int, int, int, int]:
        assert size == (SIZE, SIZE)
        return 10, 4, 20, 30

    for data in (path.read_bytes(), memoryview(path.read_bytes())):
        np.testing.assert_array_equal(read_frames(data, [5, 40], window=window), truth[:, 10:30, 4:34])
        index = index_of(path)
        np.testing.assert_array_equal(read_frames(data, [5, 40], index, window=window), truth[:, 10:30, 4:34])


@pytest.mark.parametrize("kind", ["h264_b.mp4", "h264_pyramid.mkv"])
def test_an_early_frame_does_not_cost_the_whole_file(tmp_path: Path, kind: str) -> None:
    """Only a reader that comes near the end goes on to it, for the index."""
    path = write(tmp_path / kind, kind)
    read_frames(path, [5])
    assert known_index(key_of(path)) is None
    read_frames(path, [30])
    assert known_index(key_of(path)) is not None
