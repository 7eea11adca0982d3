"""finetune.upload against a stand-in Hub that misbehaves, with the real client."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Run

from data_prep.errors import UserError
from data_prep.patience import reason
from finetune.hub import check_nothing_private, upload_apart
from finetune.upload import pushed_files

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a run leaves, as far as an upload looks at it."""
    folder = tmp_path / "out"
    (folder / "checkpoint-1").mkdir(parents=True)
    for name in (
        "README.md",
        "config.json",
        "video_preprocessor_config.json",
        "metrics.json",
        "recipe.yaml",
        "curves.png",
    ):
        (folder / name).write_text(json.dumps({"of": name}))
    for name in ("model.safetensors", "training_args.bin", "checkpoint-1/model.safetensors", "predictions.png"):
        (folder / name).write_bytes(os.urandom(300_000))
    return folder


PUSHED = {"README.md", "config.json", "curves.png", "metrics.json", "model.safetensors", "recipe.yaml", "video_preprocessor_config.json"}  # fmt: skip


@pytest.mark.parametrize(
    "fault",
    [
        {"match": "^POST /api/repos/create", "status": 500},
        {"match": "^POST /api/repos/create", "action": "lose_answer"},
        {"match": "preupload", "status": 429},
        {"match": "lfs/objects/batch", "action": "drop"},
        {"match": "^PUT", "action": "drop_body", "bytes": 65536},
        {"match": "/commit/", "status": 409},
        {"match": "/commit/", "action": "drop_body", "bytes": 10},
        {"match": "/commit/", "action": "lose_answer"},
        {"match": "/tree/", "status": 504},
        {"match": "/tree/", "action": "drop_answer", "bytes": 20, "reset": True},
    ],
    ids=lambda fault: f"{fault['match'].split('/')[-1]}-{fault.get('status', fault.get('action'))}",
)
def test_a_fault_that_passes_is_waited_out(
    hub: Any, python: Run, tmp_path: Path, run: Path, fault: dict[str, Any]
) -> None:
    hub.add_fault(count=1, **fault)
    done = python("-m", "finetune.upload", "out", "me/x")
    assert json.loads(done.stdout)["url"].endswith("me/x"), done.stdout
    files = hub.files("me/x")
    assert set(files) == PUSHED | {".gitattributes"}
    assert all(files[name] == (run / name).read_bytes() for name in PUSHED)


def test_what_a_run_no_longer_has_goes_and_what_others_added_stays(
    hub: Any, python: Run, tmp_path: Path, run: Path
) -> None:
    card = run / "README.md"
    card.write_text("![videos](predictions.png)")
    assert python("-m", "finetune.upload", "out", "me/x").returncode == 0
    added = "from huggingface_hub import HfApi; HfApi().upload_file(path_or_fileobj=b'x', path_in_repo='mine.txt', repo_id='me/x')"
    assert python("-c", added).returncode == 0
    assert "predictions.png" in hub.files("me/x")
    card.write_text("no frames")
    assert python("-m", "finetune.upload", "out", "me/x").returncode == 0
    assert set(hub.files("me/x")) == PUSHED | {".gitattributes", "mine.txt"}


def test_a_hub_that_says_nothing_is_given_up(
    hub: Any, python: Run, tmp_path: Path, run: Path, monkeypatch: Any
) -> None:
    for key, value in hub.env(cache=tmp_path / "hf").items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub.add_fault(match="/commit/", action="delay", seconds=4, count=1)
    with pytest.raises(UserError, match=r"longer than 0\.05 minutes.*Nothing is lost.*mended: command"):
        upload_apart(run, "me/x", "model", None, 0.05, "command")
    hub.add_fault(match="/commit/", action="delay", seconds=4, count=1)
    impatient = (
        "from pathlib import Path; from data_prep.patience import tire_of_silence; from finetune.upload import *;"
        "tire_of_silence(2); print(upload(Path('out'), pushed_files(Path('out')), 'me/y', None))"
    )
    done = python("-c", impatient)
    assert done.returncode == 0 and set(hub.files("me/y")) == PUSHED | {".gitattributes"}, done.stderr


def test_a_refusal_is_told_at_once_in_one_line(hub: Any, python: Run, tmp_path: Path, run: Path) -> None:
    hub.add_fault(match="/commit/", status=403, count=-1)
    done = python("-m", "finetune.upload", "out", "me/x")
    assert done.returncode == 1 and "403" in json.loads(done.stdout)["error"]
    assert len(hub.requests("/commit/")) == 1
    assert len(json.loads(done.stdout)["error"].splitlines()) == 1
    assert "Traceback" not in done.stderr and "hf_secret_token" not in done.stdout + done.stderr


def test_what_is_to_be_private_does_not_go_where_everybody_sees_it(
    hub: Any, python: Run, tmp_path: Path, run: Path
) -> None:
    push = ("-m", "finetune.upload", str(run), "me/bars")
    assert "url" in json.loads(python(*push).stdout)
    (run / "config.json").write_text("{}")
    answer = json.loads(python(*push, "--private").stdout)
    assert "already and public, expected private" in answer["error"]
    assert hub.files("me/bars")["config.json"] != b"{}"
    assert "url" in json.loads(python(*push[:-1], "me/other", "--private").stdout)


def test_a_token_that_cannot_be_sent_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    told = reason(ValueError("Illegal header value b'Bearer hf_mine'"))
    assert told == "ValueError: Illegal header value b'Bearer (the token)'"


def test_nothing_private_is_pushed(run: Path, monkeypatch: Any) -> None:
    assert set(pushed_files(run)) == PUSHED
    check_nothing_private(run)
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    (run / "recipe.yaml").write_text("wandb_key: hf_abc")
    with pytest.raises(UserError, match=r"recipe\.yaml holds the Hub's token"):
        check_nothing_private(run)
    (run / "recipe.yaml").write_text(f"cache: {Path.home()}/videos")
    with pytest.raises(UserError, match="a path of your home folder"):
        check_nothing_private(run)
