"""--timeline and --stream: what is shown when."""

from __future__ import annotations

import csv
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import encode, gray_ramp

from data_prep.errors import UserError
from finetune import load
from finetune.predict import main
from finetune.use.classifier import Classifier
from finetune.use.live import Growing
from finetune.use.timeline import Timeline, as_text, make_timeline, mean_over_windows, plot_timeline


def stand_in(classifier: Classifier) -> Classifier:
    """The same, but its score of class 0 is the mean brightness of what it sees, of class 1 the rest."""

    class Brightness(Classifier):
        def logits(self, pixels: torch.Tensor) -> torch.Tensor:
            bright = pixels.float().mean((1, 2, 3, 4)) / 255
            return torch.stack([bright, 1 - bright, *[torch.zeros_like(bright)] * 5], 1).clamp(1e-6).log()

    return Brightness(classifier.model, classifier.processor)


@pytest.fixture(scope="module")
def dark_then_bright(tmp_path_factory: pytest.TempPathFactory) -> str:
    frames = np.full((60, 48, 48, 3), 10, np.uint8)
    frames[30:] = 245
    return str(encode(tmp_path_factory.mktemp("timeline") / "v.mp4", frames, rate=10))


def test_segments_change_where_the_video_does(random_checkpoint: str, dark_then_bright: str) -> None:
    timeline = make_timeline(stand_in(load(random_checkpoint, "cpu")), dark_then_bright, 1.0, 0.5)
    segments = timeline.segments()
    assert [one.label for one in segments] == ["class 1", "class 0"]
    assert segments[0].start == 0 and abs(segments[0].end - 3.0) <= 0.5 and segments[1].start == segments[0].end
    assert segments[1].end == pytest.approx(5.9, abs=0.01) == timeline.duration
    assert min(one.score for one in segments) > 0.8
    assert timeline.segments(min_score=0.99) == []


def test_a_stride_is_the_mean_of_the_windows_that_cover_it() -> None:
    scores = np.array([[0.0], [1.0], [0.0]])
    assert mean_over_windows(np.array([0.0, 1, 2]), scores, 2.0, 1.0)[:, 0].tolist() == [0, 0.5, 0.5, 0]
    assert mean_over_windows(np.array([0.0, 3, 6]), scores, 1.0, 3.0)[:, 0].tolist() == [0, 1, 0]
    # Half a stride of the end and more is seen by the last window alone: 8 to 10 s.
    assert len(mean_over_windows(np.arange(0, 8.1, 1.6), np.zeros((6, 1)), 2.0, 1.6)) * 1.6 >= 10


def test_a_video_shorter_than_a_window_says_so(
    random_checkpoint: str, tmp_path: Path, edited: Callable[[dict], str], capsys: pytest.CaptureFixture[str]
) -> None:
    short, single = encode(tmp_path / "short.mp4", gray_ramp(8)), encode(tmp_path / "single.mp4", gray_ramp(1))
    flags = ["--timeline", "--device", "cpu", "--format", "json"]
    (segment,) = main([random_checkpoint, str(short), *flags])
    assert (segment["start"], segment["end"]) == (0, pytest.approx(0.7))
    assert "lasts 0.70 s, less than a window of 4 s" in capsys.readouterr().err
    assert main([random_checkpoint, str(short), *flags, "--min_score", "1"]) == []
    assert "no segment: none has a score of 1 or more" in capsys.readouterr().err
    with pytest.raises(UserError, match="has only one frame: it is a picture"):
        main([random_checkpoint, str(single), *flags])
    dense = edited({"clip_sampling": "dense", "clip_frame_stride": 1})
    with pytest.raises(UserError, match=r"lasts 0.70 s, too short for a window of 4 s: pass a smaller"):
        main([dense, str(short), *flags])


def test_formats_and_picture(random_checkpoint: str, dark_then_bright: str, tmp_path: Path) -> None:
    written = {}
    for form in ("json", "csv", "srt"):
        output = tmp_path / f"out.{form}"
        flags = ["--timeline", "--window_seconds", "2", "--output", str(output)]
        flags += ["--picture", str(tmp_path / "p.png")] if form == "json" else []
        rows = main([random_checkpoint, dark_then_bright, *flags, "--device", "cpu"])
        written[form] = output.read_text()
    assert json.loads(written["json"])["segments"] == rows
    assert [row["label"] for row in csv.DictReader(written["csv"].splitlines())] == [row["label"] for row in rows]
    assert written["srt"].startswith("1\n00:00:00,000 --> 00:00:0")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_what_does_not_go_together_is_said(random_checkpoint: str, dark_then_bright: str, ramp_video: Path) -> None:
    for flags, message in (
        (["--timeline", "--format", "jsonl"], "jsonl does not go with --timeline"),
        ([str(ramp_video), "--timeline"], "takes one INPUT, got 2"),
        (["--stream", "--output", "x.jsonl"], "leave --output out"),
        (["--format", "srt"], "srt does not go"),
        (["--timeline", "--window_seconds", "0"], "0.01 to 86400"),
    ):
        with pytest.raises(UserError, match=message):
            main([random_checkpoint, dark_then_bright, *flags])


def write_stream(path: Path, form: str) -> bytes:
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream("mpeg2video" if form == "mpegts" else "rawvideo", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in gray_ramp(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.parametrize("form", ["mpegts", "yuv4mpegpipe"])
def test_a_pipe_is_predicted_as_it_comes(
    form: str, random_checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, pipe = write_stream(tmp_path / "stream", form), tmp_path / "pipe"
    os.mkfifo(pipe)
    writing = threading.Thread(target=pipe.write_bytes, args=(data,))
    writing.start()
    main([random_checkpoint, str(pipe), "--stream", "--window_seconds", "1", "--format", "jsonl", "--top_k", "2"])
    writing.join()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["start"] for row in rows] == [0.5 * number for number in range(len(rows))] and len(rows) == 7
    assert all(row["end"] == row["start"] + 1 and len(row["predictions"]) == 2 for row in rows)


def test_an_answer_does_not_wait_for_the_end_of_a_stream(
    random_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, pipe, answered, before_the_end = write_stream(tmp_path / "stream", "mpegts"), tmp_path / "pipe", threading.Event(), []  # fmt: skip
    os.mkfifo(pipe)

    def write_most_and_wait() -> None:
        with pipe.open("wb", buffering=0) as file:
            file.write(data[: len(data) * 3 // 4])
            before_the_end.append(answered.wait(60))
            file.write(data[len(data) * 3 // 4 :])

    def line(row: dict, form: str) -> str:
        answered.set()
        return ""

    monkeypatch.setattr("finetune.use.live._line", line)
    writing = threading.Thread(target=write_most_and_wait)
    writing.start()
    main([random_checkpoint, str(pipe), "--stream", "--window_seconds", "0.5"])
    writing.join()
    assert before_the_end == [True]


def test_a_growing_file_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(b"ab")
    descriptor = os.open(path, os.O_RDONLY)
    growing = Growing(descriptor, patience=20.0)
    assert growing.read(10) == b"ab"

    def write_later() -> None:
        time.sleep(0.2)
        with path.open("ab") as file:
            file.write(b"cd")

    threading.Thread(target=write_later).start()
    assert growing.read(10) == b"cd"
    growing.patience = 0.2
    assert growing.read(10) == b""
    assert growing.patience == 0, "an end is an end: FFmpeg asks for more several times"
    os.close(descriptor)


@pytest.mark.parametrize(
    "content", [b"", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n", b"v=0\no=- 0 0 IN IP4 127.0.0.1\n"]
)
def test_a_stream_that_is_no_video_is_refused(content: bytes, random_checkpoint: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match="cannot be opened as a stream"):
        main([random_checkpoint, str(tmp_path / "x"), "--stream", "--patience_seconds", "0"])


def test_a_device_is_not_opened_as_a_stream(random_checkpoint: str) -> None:
    with pytest.raises(UserError, match="neither a pipe nor a file"):
        main([random_checkpoint, "/dev/null", "--stream"])


def test_several_labels_overlap_where_each_is_from_its_threshold_on(tmp_path: Path) -> None:
    scores = np.array([[0.4, 0.9, 0.1], [0.6, 0.9, 0.1], [0.6, 0.2, 0.1]], np.float32)
    timeline = Timeline(["a", "<b>", "c"], 1.0, 3.0, scores, np.array([0.5, 0.8, 0.9]))
    segments = timeline.segments()
    assert [(one.label, one.start, one.end) for one in segments] == [("<b>", 0.0, 2.0), ("a", 1.0, 3.0)]
    assert [one.label for one in timeline.segments(min_score=0.7)] == ["<b>"]
    assert "‹b›" in as_text(timeline, segments, "v", "srt")
    plot_timeline(timeline, segments, tmp_path / "p.png")
    nothing = Timeline(["a", "<b>", "c"], 1.0, 3.0, scores, np.array([0.95, 0.95, 0.95]))
    assert nothing.segments() == []
    plot_timeline(nothing, [], tmp_path / "p.png")


def test_an_empty_timeline_has_no_segment_of_no_length() -> None:
    timeline = Timeline(["a", "b"], 1.0, 1.0, np.array([[1.0, 0], [0, 1.0]], np.float32))
    assert [(one.start, one.end) for one in timeline.segments()] == [(0.0, 1.0)]
