"""python -m finetune.predict: every video gets its row, whatever becomes of the others."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import gray_ramp

from data_prep.errors import UserError, exit_cleanly
from finetune.arguments import ModelArguments
from finetune.predict import main
from finetune.weights import load_start


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model")
    start = load_start(ModelArguments(model_name_or_path="timesformer-tiny"), [f"class {i}" for i in range(7)])
    start.model.save_pretrained(path)
    start.processor.save_pretrained(path)
    return str(path)


@pytest.fixture
def videos(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    write_video(tmp_path / "v" / "long.mp4", gray_ramp(20))
    write_video(tmp_path / "v" / "sub" / "short.MKV", gray_ramp(3, 40, 90))
    (tmp_path / "v" / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "v" / "notes.txt").write_text("no video")
    return tmp_path / "v"


def test_json_has_an_object_per_video_and_errors_stay_rows(
    model: str, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = exit_cleanly(main)([model, str(videos), str(videos / "missing.mp4"), "--format", "json"])
    rows = {Path(row["video"]).name: row for row in json.loads(capsys.readouterr().out)}
    assert code == 0
    assert set(rows) == {"long.mp4", "short.MKV", "broken.mp4", "missing.mp4"}
    for name in ("long.mp4", "short.MKV"):
        scores = [guess["score"] for guess in rows[name]["predictions"]]
        assert len(scores) == 5 and scores == sorted(scores, reverse=True) and 0 < sum(scores) < 1
    assert "cannot be opened" in rows["broken.mp4"]["error"] and "predictions" not in rows["broken.mp4"]
    assert "No such file" in rows["missing.mp4"]["error"]


def test_csv_and_table(model: str, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([model, str(videos / "*.mp4"), "--format", "csv", "--top_k", "2"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(Path(row["video"]).name, bool(row["label"]), bool(row["error"])) for row in rows] == [
        ("broken.mp4", False, True), ("long.mp4", True, False), ("long.mp4", True, False),
    ]  # fmt: skip
    main([model, str(videos / "long.mp4"), "--top_k", "99"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("long.mp4") and len(lines) == 8 and "%" in lines[1]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["{v}/broken.mp4"], "none of the 1 videos"),
        (["{v}/*.xyz"], "matches no file"),
        (["{v}/../empty"], "holds no videos"),
    ],
)
def test_nothing_to_predict_is_an_error(model: str, videos: Path, inputs: list[str], message: str) -> None:
    (videos.parent / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        main([model, *(text.format(v=videos) for text in inputs)])
