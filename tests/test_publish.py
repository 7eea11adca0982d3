"""Datasets on the Hub: what is written for it, and pushes that a Hub spoils. tests/test_hub.py loads them from there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
from conftest import Run
from huggingface_hub import DatasetCard

from data_prep import publish
from data_prep.errors import UserError
from data_prep.store import read_summary

pytestmark = pytest.mark.slow


@pytest.fixture
def few(bars: Path, tmp_path: Path) -> Path:
    """Six videos of two classes."""
    for label in ("left", "right"):
        (tmp_path / "few" / label).mkdir(parents=True)
        for number in range(3):
            shutil.copy(bars / label / f"{number}.mp4", tmp_path / "few" / label)
    return tmp_path / "few"


def command(few: Path, *more: str) -> tuple[str, ...]:
    return ("-m", "data_prep", str(few), "d", "--num_proc", "1", "--push_to_hub", "me/d", *more)


def test_what_is_written_is_the_dataset_in_files_of_bounded_size(
    bars_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = read_summary(str(bars_dataset))
    (one, other, many), written = (tmp_path / name for name in ("one", "other", "many")), []
    for folder in (one, other):
        folder.mkdir()
        written.append(publish.write_repository(folder, bars_dataset, "me/bars", summary))
    assert written[0] == [
        "README.md",
        "data/train-00000.parquet",
        "data/validation-00000.parquet",
        "data/test-00000.parquet",
    ]
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in written[0]), "the same again"
    many.mkdir()
    monkeypatch.setattr(publish, "FILE_BYTES", 1)
    names = publish.write_repository(many, bars_dataset, "me/bars", summary)
    ours = datasets.load_from_disk(str(bars_dataset))
    assert len(names) == 1 + sum(map(len, ours.values()))
    for folder in (one, many):
        for split, rows in ours.items():
            theirs = datasets.load_dataset("parquet", data_files=str(folder / "data" / f"{split}-*"), split="train", cache_dir=str(tmp_path / "cache"))  # fmt: skip
            assert theirs.features == rows.features
            by_id = {row["video_id"]: row for row in theirs}
            for row in rows:
                path = Path(row["video"]["path"])
                expected = row | {"video": {"bytes": path.read_bytes(), "path": path.name}}
                assert by_id.pop(row["video_id"]) == expected
            assert not by_id


def test_a_video_that_is_gone_is_named(few: Path, tmp_path: Path) -> None:
    from data_prep.prepare import main

    main([str(few), str(tmp_path / "d"), "--num_proc", "1"])
    (few / "left" / "1.mp4").unlink()
    (tmp_path / "to").mkdir()
    with pytest.raises(UserError, match=r"left/1\.mp4 cannot be read any more \(No such file or directory\)"):
        publish.write_repository(tmp_path / "to", tmp_path / "d", "me/d", read_summary(str(tmp_path / "d")))


def test_pushed_again_it_sends_nothing_and_keeps_what_somebody_added(hub: Any, python: Run, few: Path) -> None:
    hub.add_fault(match="^PUT", action="drop_body", bytes=100, count=1)
    hub.add_fault(match="/commit/", action="lose_answer", count=1)
    pushed = python(*command(few))
    assert pushed.returncode == 0 and "published d as me/d (private)" in pushed.stdout, pushed.stderr
    commits = len(hub.history("me/d", "dataset"))
    assert python(*command(few)).returncode == 0
    assert len(hub.history("me/d", "dataset")) == commits, "an unchanged dataset makes no commit"
    there = hub.files("me/d", "dataset")["README.md"].decode()
    edited = there.replace("task_categories:", "license: cc-by-4.0\ntask_categories:").replace("# d\n", "# Mine\n")
    code = "import sys; from huggingface_hub import HfApi as A; A().upload_file(path_or_fileobj=sys.argv[1].encode(), path_in_repo=sys.argv[2], repo_id='me/d', repo_type='dataset')"
    for content, name in ((edited, "README.md"), ("old", "data/train-00000-of-00007.parquet"), ("theirs", "notes.txt")):
        assert python("-c", code, content, name).returncode == 0
    assert python(*command(few)).returncode == 0
    files = hub.files("me/d", "dataset")
    card = DatasetCard(files["README.md"].decode())
    assert card.data.license == "cc-by-4.0" and card.data.task_categories == ["video-classification"]
    assert "# d\n" in card.text
    assert "data/train-00000-of-00007.parquet" not in files and files["notes.txt"] == b"theirs"


def test_a_hub_that_hangs_is_given_up_and_the_dataset_stays(hub: Any, python: Run, few: Path, tmp_path: Path) -> None:
    hub.add_fault(match="/commit/", action="delay", seconds=8, count=1)
    (tmp_path / ".d.push.killed" / "data").mkdir(parents=True)  # of an earlier push
    failed = python(*command(few, "--push_limit_minutes", "0.1"))
    assert failed.returncode == 2 and "it took longer than 0.1 minutes" in failed.stderr, failed.stderr
    assert "Nothing is lost: everything is in d. When it is mended: python -m data_prep" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert json.loads((tmp_path / "d" / "summary.json").read_text())["accepted"] == 6
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".d.")], "nothing else is left"


def test_no_token_goes_into_a_card(hub: Any, python: Run, few: Path) -> None:
    (few / "left").rename(few / ("hf_" + "aB3" * 12))
    refused = python(*command(few))
    assert refused.returncode == 2 and "what looks like a token of the Hub: it is not pushed" in refused.stderr
    assert not hub.requests("/commit/")
