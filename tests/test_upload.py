"""data_prep.upload and its process, against a stand-in Hub that misbehaves, with the real client."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import OddHub, Run, when_asked
from forks import Forks

from data_prep.apart import Upload, check_nothing_private, upload_apart
from data_prep.errors import UserError
from data_prep.patience import reason
from finetune.hub import PICTURE_OF_VIDEOS, PUSHED_FILES, pushed_files

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


# The same with shorter waits between the tries.
IMPATIENT = (
    "import sys; import data_prep.patience as p; p._WAITS_SECONDS = (0.05, 0.05, 0.05);"
    "from data_prep import upload as u; sys.exit(u.main())"
)


def command(folder: Path, repo_id: str = "me/x", *more: str) -> tuple[str, ...]:
    """What `finetune.hub.push` starts."""
    words = ("-m", "data_prep.upload", str(folder), repo_id, "--repo_type", "model", *more)
    return (*words, "--names", *pushed_files(folder), "--outdated", *PUSHED_FILES, PICTURE_OF_VIDEOS)


@pytest.mark.parametrize(
    "faults",
    [
        [
            {"match": "^POST /api/repos/create", "status": 500},
            {"match": "preupload", "status": 429},
            {"match": "lfs/objects/batch", "action": "drop"},
            {"match": "^PUT", "action": "drop_body", "bytes": 65536},
            {"match": "/tree/", "status": 504},
        ],
        [
            {"match": "^POST /api/repos/create", "action": "lose_answer"},
            {"match": "/commit/", "action": "drop_body", "bytes": 10},
            {"match": "/tree/", "action": "drop_answer", "bytes": 20, "reset": True},
        ],
        [{"match": "/commit/", "status": 409}, {"match": "/commit/", "action": "lose_answer", "skip": 1}],
    ],
    ids=["at every step", "broken off", "done but not told"],
)
def test_faults_that_pass_are_waited_out(
    hub: Any, python: Run, tmp_path: Path, run: Path, faults: list[dict[str, Any]]
) -> None:
    for fault in faults:
        hub.add_fault(count=1, **fault)
    done = python("-c", IMPATIENT, *command(run)[2:])
    assert json.loads(done.stdout)["url"].endswith("me/x"), done.stdout
    files = hub.files("me/x")
    assert set(files) == PUSHED | {".gitattributes"}
    assert all(files[name] == (run / name).read_bytes() for name in PUSHED)
    assert not any(fault.count for fault in hub.faults), "each of them was met"


def test_a_hub_that_lists_old_files_for_a_while_is_asked_again(
    hub: Any, python: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = hub.httpd.RequestHandlerClass
    tree, late = handler.repo_tree, [b"[]", b"[]"]

    def listed_late(self: Any, kind: str, *place: Any, **more: Any) -> None:
        if late and hub.history("me/x"):
            late.pop()
            self.send_json([])
        else:
            tree(self, kind, *place, **more)

    monkeypatch.setattr(handler, "repo_tree", listed_late)
    done = python(*command(run))
    assert json.loads(done.stdout)["url"].endswith("me/x") and not late, done.stdout


def test_a_file_that_is_not_ours_in_the_end_is_told(hub: Any, python: Run, run: Path) -> None:
    assert python(*command(run)).returncode == 0
    code = (
        "import sys; from pathlib import Path; import data_prep.patience as p; p._WAITS_SECONDS = (0.1,);"
        "from data_prep import upload as u; u.HfApi.upload_folder = lambda *_, **__: None; sys.exit(u.main())"
    )
    (run / "metrics.json").write_text('{"of": "metric.json!"}')
    done = python("-c", code, *command(run)[2:])
    assert done.returncode == 1 and "its metrics.json is not the one here" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b"null", b'"x"', b"<html>log in</html>", b'{"url": 5}', b'{"url": "x"}', b"\xff\x00"]
)
def test_a_hub_that_answers_anything_is_told_in_one_line(
    odd_hub: OddHub, forks: Forks, tmp_path: Path, run: Path, answer: bytes
) -> None:
    odd_hub.answer = answer
    done = forks.run("-c", IMPATIENT, *command(run)[2:], cwd=tmp_path, HF_TOKEN="hf_secret_token")
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 1 and len(error.splitlines()) == 1 and error.isprintable()
    assert "Traceback" not in done.stderr and "hf_secret_token" not in done.stdout + done.stderr


def test_what_a_run_no_longer_has_goes_and_what_others_added_stays(
    hub: Any, python: Run, tmp_path: Path, run: Path
) -> None:
    card = run / "README.md"
    card.write_text("![videos](predictions.png)")
    assert python(*command(run)).returncode == 0
    added = "from huggingface_hub import HfApi; HfApi().upload_file(path_or_fileobj=b'x', path_in_repo='mine.txt', repo_id='me/x')"
    assert python("-c", added).returncode == 0
    assert "predictions.png" in hub.files("me/x")
    card.write_text("no frames")
    assert python(*command(run)).returncode == 0
    assert set(hub.files("me/x")) == PUSHED | {".gitattributes", "mine.txt"}


def test_a_hub_that_says_nothing_is_given_up(
    hub: Any, python: Run, tmp_path: Path, run: Path, monkeypatch: Any
) -> None:
    for key, value in hub.env(cache=tmp_path / "hf").items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub.add_fault(match="/commit/", action="delay", seconds=4, count=1)
    with pytest.raises(UserError, match=r"longer than 0\.05 minutes.*Nothing is lost.*mended: command"):
        upload_apart(Upload(run, sorted(PUSHED), "me/x", "model"), run, 0.05, "command")
    hub.add_fault(match="/commit/", action="delay", seconds=4, count=1)
    impatient = (
        "from pathlib import Path; from data_prep.patience import tire_of_silence; from data_prep.upload import *;"
        f"tire_of_silence(2); print(upload(Path('out'), {sorted(PUSHED)}, 'me/y', 'model', None, []))"
    )
    done = python("-c", impatient)
    assert done.returncode == 0 and set(hub.files("me/y")) == PUSHED | {".gitattributes"}, done.stderr


def test_a_refusal_is_told_at_once_in_one_line(hub: Any, python: Run, tmp_path: Path, run: Path) -> None:
    hub.add_fault(match="/commit/", status=403, count=-1)
    done = python(*command(run))
    assert done.returncode == 1 and "403" in json.loads(done.stdout)["error"]
    assert len(hub.requests("/commit/")) == 1
    assert len(json.loads(done.stdout)["error"].splitlines()) == 1
    assert "Traceback" not in done.stderr and "hf_secret_token" not in done.stdout + done.stderr


def test_what_is_to_be_private_does_not_go_where_everybody_sees_it(
    hub: Any, python: Run, tmp_path: Path, run: Path
) -> None:
    assert "url" in json.loads(python(*command(run, "me/bars")).stdout)
    (run / "config.json").write_text("{}")
    answer = json.loads(python(*command(run, "me/bars", "--private")).stdout)
    assert "already and public, expected private" in answer["error"]
    assert hub.files("me/bars")["config.json"] != b"{}"
    assert "url" in json.loads(python(*command(run, "me/other", "--private")).stdout)


def test_a_token_that_cannot_be_sent_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    told = reason(ValueError("Illegal header value b'Bearer hf_mine'"))
    assert told == "ValueError: Illegal header value b'Bearer (the token)'"


def test_nothing_private_is_pushed(run: Path, monkeypatch: Any) -> None:
    assert set(pushed_files(run)) == PUSHED
    check_nothing_private(run, pushed_files(run))
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    (run / "recipe.yaml").write_text("wandb_key: hf_abc")
    with pytest.raises(UserError, match=r"recipe\.yaml holds the Hub's token"):
        check_nothing_private(run, pushed_files(run))
    (run / "recipe.yaml").write_text(f"cache: {Path.home()}/videos")
    with pytest.raises(UserError, match="a path of your home folder"):
        check_nothing_private(run, pushed_files(run))
    (run / "recipe.yaml").write_text("command: HF_TOKEN=hf_" + "a1B2c3" * 6)
    with pytest.raises(UserError, match="what looks like a token of the Hub: it is not pushed") as refused:
        check_nothing_private(run, pushed_files(run))
    assert "a1B2c3" not in str(refused.value)
    (run / "recipe.yaml").write_text("label: hf_high_frequency_noise_of_a_very_long_name_that_is_no_token")
    check_nothing_private(run, pushed_files(run))


# Killed while the Hub keeps its upload waiting; the lock file says which process it is.
PUSHING = """
import sys
from pathlib import Path
from data_prep.apart import Upload, upload_apart
from data_prep.lock import only_writer
with only_writer(("folder", "out")):
    upload_apart(Upload(Path("out"), sys.argv[1:], "me/x", "model"), Path("out"), 60, "again")
"""


# Without the check of the model, which is none here.
PUSH_UNCHECKED = "import sys; from finetune import hub; hub.check = lambda *_: 'checked'; sys.exit(hub.main())"


def uploads_of(folder: Path) -> list[int]:
    """The processes that upload `folder`."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            if b"data_prep.upload" in words and os.readlink(place / "cwd") == str(folder.parent):
                found.append(int(place.name))
    return found


def test_an_upload_ends_with_the_command_that_is_killed(hub: Any, python: Run, run: Path) -> None:
    hub.add_fault(match="/preupload/", action="delay", seconds=3, count=-1)
    ended = when_asked(hub, "/preupload/", run, signal.SIGKILL)
    assert python("-c", PUSHING, *sorted(PUSHED)).returncode == -signal.SIGKILL
    ended.join()
    deadline = time.monotonic() + 10
    while uploads_of(run) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not uploads_of(run)
    assert not hub.requests("/commit/") and len(hub.history("me/x")) <= 1, "nothing was published"


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_push_that_is_stopped_says_so_and_how_to_go_on(hub: Any, python: Run, run: Path, end: signal.Signals) -> None:
    hub.add_fault(match="/preupload/", action="delay", seconds=3, count=1)
    ended = when_asked(hub, "/preupload/", run, end)
    stopped = python("-c", PUSH_UNCHECKED, "push", "out", "me/x")
    ended.join()
    assert stopped.returncode == (130 if end == signal.SIGINT else 143)
    assert "stopped before out was pushed to me/x. Nothing is lost: go on with python -m finetune.hub push out me/x\n" in stopped.stderr  # fmt: skip
    assert "Traceback" not in stopped.stderr and not uploads_of(run)
    assert python("-c", PUSH_UNCHECKED, "push", "out", "me/x").returncode == 0
    assert set(hub.files("me/x")) == PUSHED | {".gitattributes"}


def test_two_pushes_into_one_repository(hub: Any, python: Run, forks: Forks, tmp_path: Path, run: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    hub.add_fault(match="/preupload/", action="delay", seconds=2, count=-1)
    commands = [["-c", PUSH_UNCHECKED, "push", name, "me/x"] for name in ("out", "other")]
    done = forks.run_together(commands, tmp_path, [hub.env()] * 2)
    assert sorted(one.returncode for one in done) == [0, 2], [one.stderr for one in done]
    refused = next(one for one in done if one.returncode == 2)
    assert "me/x is being uploaded to by another command (process " in refused.stderr
    assert f"When it has ended: python -m finetune.hub push {refused.args[3]} me/x" in refused.stderr
