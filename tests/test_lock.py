"""data_prep.lock: one command at a time writes an output, whatever ends it."""

from __future__ import annotations

import errno
import fcntl
import importlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from conftest import blobs
from forks import Forks

from data_prep.errors import UserError
from data_prep.lock import only_push, only_writer

ROOT = Path(__file__).parents[1]

# Each process takes the lock many times; `inside` exists only while one of them has it.
MANY = """
import os, sys, time
from data_prep.errors import UserError
from data_prep.lock import only_writer
had, until = 0, time.monotonic() + 8
while had < int(sys.argv[1]) and time.monotonic() < until:
    try:
        with only_writer(("--output", sys.argv[2])):
            os.close(os.open("inside", os.O_CREAT | os.O_EXCL))
            time.sleep(0.001 * (had % 3))
            os.unlink("inside")
            had += 1
    except UserError:
        pass
print(had)
"""


@pytest.mark.parametrize(("rounds", "outputs"), [(30, ["out", "link/out"]), pytest.param(500, ["new/a/out"] * 4, marks=pytest.mark.slow)])  # fmt: skip
def test_of_processes_at_once_one_has_the_lock(forks: Forks, tmp_path: Path, rounds: int, outputs: list[str]) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    commands = [["-c", MANY, str(rounds), output] for output in outputs]
    for done in forks.run_together(commands, tmp_path, [{}] * len(commands)):
        assert done.returncode == 0 and int(done.stdout), done.stderr
    assert not list(tmp_path.rglob("*.lock")) and not (tmp_path / "inside").exists()


KILLED = """
import os, signal, sys, time
from data_prep.lock import only_writer
with only_writer(("--output", "out")):
    if os.fork() == 0:  # as a loader's worker
        open("forked", "w").write(str(os.getpid()))
        time.sleep(60)
        os._exit(0)
    while not os.path.exists("forked") or not open("forked").read():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_holder_holds_nothing_though_its_workers_live(forks: Forks, tmp_path: Path) -> None:
    assert forks.run("-c", KILLED, cwd=tmp_path).returncode == -signal.SIGKILL
    worker = int((tmp_path / "forked").read_text())
    os.kill(worker, 0)
    assert (tmp_path / ".out.lock").exists()
    with only_writer(("--output", tmp_path / "out")):
        pass
    assert not (tmp_path / ".out.lock").exists()
    os.kill(worker, signal.SIGKILL)


REFUSED = """
import sys, tempfile
tempfile.tempdir = sys.argv.pop(1)
from data_prep.errors import exit_cleanly
from data_prep.lock import only_push, only_writer
def main():
    for name in sys.argv[1:]:
        with only_push("model", name, "the command") if name.startswith("me/") else only_writer(("--output", name)):
            print("had it")
sys.exit(exit_cleanly(main)())
"""


def test_the_second_is_told_who_writes(forks: Forks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no lock can be made beside the output, and of an object store, which has none."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    outputs = ("out", "/proc/out", "s3://bucket/out")
    with only_writer(*(("--output", tmp_path / name if name == "out" else name) for name in outputs)):
        for name in outputs:
            done = forks.run("-c", REFUSED, str(tmp_path / "tmp"), name, cwd=tmp_path)
            assert done.returncode == 2, name
            assert done.stderr == f"error: --output {name} is being written by another command (process {os.getpid()}). Wait until it has ended, or choose another.\n"  # fmt: skip
    done = forks.run("-c", REFUSED, str(tmp_path / "tmp"), *outputs, "me/x", "/dev/null", cwd=tmp_path)
    assert done.stdout == "had it\n" * 5, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"] and not list((tmp_path / "tmp").iterdir())


def test_a_repository_is_pushed_to_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with only_push("model", "me/x", "first"):
        with pytest.raises(UserError, match=r"me/x is being uploaded to by .*\. When it has ended: second"), only_push("model", "me/x", "second"):  # fmt: skip
            pass
        with only_push("dataset", "me/x", "third"), only_push("model", "me/y", "fourth"):
            pass
    assert not (tmp_path / "hub").exists()


def test_who_needs_what_another_makes_waits(forks: Forks, tmp_path: Path) -> None:
    code = (
        "import time; from data_prep.lock import one_after_the_other\n"
        "with one_after_the_other('made'):\n    print(time.monotonic()); time.sleep(0.3); print(time.monotonic())"
    )
    done = forks.run_together([["-c", code]] * 2, tmp_path, [{}] * 2)
    (_, first), (second, _) = sorted(tuple(map(float, one.stdout.split())) for one in done)
    assert first <= second and "is being prepared by another command" in done[0].stderr + done[1].stderr
    assert not list(tmp_path.iterdir())


def test_a_disk_without_locks_leaves_nothing_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    lock, refused = fcntl.lockf, [True]

    def lockf(*arguments: int) -> None:
        if refused:
            refused.pop()
            raise OSError(errno.ENOLCK, "No locks available")
        lock(*arguments)

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with only_writer(("--output", tmp_path / "out")):
        assert [path.name for path in tmp_path.iterdir()] == ["tmp"] and len(list((tmp_path / "tmp").glob("*/*"))) == 1
    assert not list((tmp_path / "tmp").iterdir())


def test_two_outputs_of_one_command_are_two_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--picture out is --output too"), only_writer(("--output", "out"), ("--picture", "out")):  # fmt: skip
        pass


COMMANDS = {
    "data_prep.prepare": "VIDEOS out", "finetune.run": "--dataset_name d --model_name_or_path timesformer-tiny --output_dir out",
    "finetune.folds": "--dataset_name DATASET --model_name_or_path timesformer-tiny --output_dir out",
    "finetune.predict": "MODEL VIDEOS --output out", "finetune.predict 2": "MODEL VIDEOS --timeline --picture out",
    "finetune.evaluate": "MODEL d --output out", "finetune.evaluate 2": "MODEL d --predictions out",
    "finetune.export": "MODEL out --format torch_export", "finetune.space": "MODEL --output out",
    "finetune.explain": "MODEL v --output out.mp4", "finetune.hub": "push out me/x",
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_asks_before_it_works(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not one of its inputs is there: it would fail otherwise than it does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("finetune.folds.count_folds", lambda name: 3)
    words = COMMANDS[name].split()
    with only_writer(("--output", "out"), ("--output", "out.mp4")):
        try:
            code = importlib.import_module(name.split()[0]).main(words)
        except UserError as error:
            assert "is being written by this command itself" in str(error)
        else:  # a command that ends cleanly by itself
            assert code == 2 and "is being written by this command itself" in capsys.readouterr().err


@pytest.fixture
def videos(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    for name in (f"{label}/{number}" for label in ("run", "walk") for number in range(5)):
        write_video(tmp_path / "videos" / f"{name}.mp4", blobs(name))
    return tmp_path / "videos"


@pytest.mark.slow
def test_two_preparations_of_one_dataset_leave_a_whole_one(forks: Forks, videos: Path, tmp_path: Path) -> None:
    command = ["-m", "data_prep", "videos", "out", "--overwrite", "--num_proc", "1"]
    assert forks.run(*command, "--seed", "7", cwd=tmp_path).returncode == 0
    done = forks.run_together([[*command], [*command, "--work", "other"]], tmp_path, [{}] * 2)
    assert sorted(one.returncode for one in done) == [0, 2], [one.stderr for one in done]
    assert any("DATASET out is being written by another command (process " in one.stderr for one in done)
    assert sum(map(len, datasets.load_from_disk(str(tmp_path / "out")).values())) == 10
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "videos", "other"}


@pytest.mark.slow
def test_two_predictions_into_one_file_hold_each_video_once(
    forks: Forks, videos: Path, tmp_path: Path, random_checkpoint: str
) -> None:
    for name in ("p.jsonl", "p.csv"):
        command = ["-m", "finetune.predict", random_checkpoint, "videos", "--output", name, "--top_k", "1", "--num_workers", "0"]  # fmt: skip
        done = forks.run_together([command] * 2, tmp_path, [{}] * 2)
        assert sorted(one.returncode for one in done) == [0, 2], [one.stderr for one in done]
        assert any(f"--output {name} is being written by another command" in one.stderr for one in done)
        lines = (tmp_path / name).read_text().splitlines()
        assert len(lines) == 10 + name.endswith("csv")


TRAIN = ["--model_name_or_path", "timesformer-tiny", "--max_steps", "1", "--per_device_train_batch_size", "4", "--dataloader_num_workers", "0", "--report_to", "none"]  # fmt: skip


@pytest.mark.slow
def test_two_trainings_into_one_folder_leave_a_run_of_one(forks: Forks, bars_dataset: Path, tmp_path: Path) -> None:
    command = [str(ROOT / "finetune" / "run.py"), "--dataset_name", str(bars_dataset), "--output_dir", "out", *TRAIN]
    rates = ("0.001", "0.002")
    done = forks.run_together([[*command, "--learning_rate", rate] for rate in rates], tmp_path, [{}] * 2)
    assert sorted(one.returncode for one in done) == [0, 2], [one.stderr for one in done]
    assert any("--output_dir out is being written by another command" in one.stderr for one in done)
    winner = next(rate for rate, one in zip(rates, done) if one.returncode == 0)
    assert f"learning_rate: {winner}\n" in (tmp_path / "out" / "recipe.yaml").read_text()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.slow
def test_two_trainings_on_one_plain_folder_prepare_it_once(forks: Forks, videos: Path, tmp_path: Path) -> None:
    code = "import sys; from finetune.clips.dataset import load_splits; print(len(load_splits('videos', False).train))"
    done = forks.run_together([["-c", code]] * 2, tmp_path, [{"HF_DATASETS_CACHE": str(tmp_path / "cache")}] * 2)
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    assert sum("is up to date" in one.stdout for one in done) == 1


def test_a_claim_of_a_dataset_covers_the_folder_for_its_work(tmp_path: Path) -> None:
    """Two datasets of one name share a folder in one --work."""
    from data_prep.scan import Storing
    from data_prep.work import work_folder, work_folder_of

    folder = work_folder_of(str(tmp_path / "a" / "out"), str(tmp_path / "work"))
    assert folder == work_folder_of(str(tmp_path / "b" / "out"), str(tmp_path / "work"))
    with work_folder(folder, Storing("files")), pytest.raises(UserError, match="is being written by"):  # noqa: SIM117
        with work_folder(folder, Storing("files")):
            pass
    assert not (tmp_path / "work").exists() or not list((tmp_path / "work").iterdir())
