"""SIGTERM and other ends: a command that can go on says so, whatever it was at, and leaves no process behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import encode, moving_bar
from forks import Forks
from torch.utils.data import DataLoader

import finetune.run
from data_prep.errors import UserError, exit_cleanly
from data_prep.prepare import main as data_prep
from data_prep.sigterm import Interrupted, on_sigterm
from finetune.clips import watch
from finetune.clips.watch import outlive_one_sigterm, reader_context
from finetune.run import main
from finetune.training.trainer import VideoTrainer

ROOT = Path(__file__).parents[1]
RUN = str(ROOT / "finetune" / "run.py")
FAST = [
    "--model_name_or_path", "timesformer-tiny", "--config", "none", "--num_train_epochs", "1",
    "--per_device_train_batch_size", "8", "--report_to", "none", "--disable_tqdm", "true", "--use_cpu", "true",
]  # fmt: skip
SECONDS = 120  # within which a command ends that takes a few, on a busy machine

pytestmark = pytest.mark.usefixtures("without_pictures")


def told(*pids: int | None) -> None:
    """SIGTERM from a process that has nothing to do with them, as launchers and schedulers send it."""
    subprocess.run(["kill", "-TERM", *(str(pid) for pid in pids)], check=True)


def left_in(folder: Path) -> list[str]:
    """Processes whose working directory is `folder`."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if place.resolve() == folder.resolve():
                found.append((place.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def stop() -> None:
    raise Interrupted("told")


def test_what_is_noted_is_answered_when_there_is_nothing_left_to_save() -> None:
    noted = []
    with pytest.raises(Interrupted), on_sigterm(stop):
        with on_sigterm(lambda: noted.append(1)):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # of a launcher that passes on what all were told
            assert noted == [1]
        raise AssertionError("not reached")


def test_a_library_that_catches_everything_does_not_swallow_it() -> None:
    with pytest.raises(Interrupted), on_sigterm(stop):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            raise AssertionError("swallowed") from None


def test_a_second_sigterm_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.sigterm.ONE_STOP_SECONDS", 0.0)
    with pytest.raises(SystemExit) as ended, on_sigterm(lambda: None):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 143


def _read_for_ever(ready: Any) -> None:
    watch.get_worker_info = lambda: object()  # type: ignore[assignment, return-value]  # as a loader's process sees it
    outlive_one_sigterm()
    ready.set()
    time.sleep(600)


def _ignore_sigterm(ready: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.set()
    time.sleep(600)


def started(target: Callable[..., None]) -> multiprocessing.Process:
    context: Any = multiprocessing.get_context("fork")
    ready = context.Event()
    process: multiprocessing.Process = context.Process(target=target, args=(ready,), daemon=True)
    process.start()
    assert ready.wait(30)
    return process


def test_a_reader_outlives_a_sigterm_to_all_but_not_its_parents() -> None:
    reader = started(_read_for_ever)
    told(reader.pid)
    reader.join(0.2)
    assert reader.is_alive()
    reader.terminate()  # as a loader ends its processes, and Python at exit
    reader.join(30)
    assert reader.exitcode == 0


def _told_at_once(worker: int) -> None:
    for end in ("INT", "TERM"):
        subprocess.run(["kill", f"-{end}", str(os.getpid())], check=True)


def test_a_reader_outlives_a_sigterm_to_all_before_its_first_row() -> None:
    loader = DataLoader(
        range(3), num_workers=1, worker_init_fn=_told_at_once, multiprocessing_context=reader_context(1)
    )  # type: ignore[arg-type]
    assert [int(batch) for batch in loader] == [0, 1, 2]


COMMANDS = [
    ["finetune/run.py"],
    ["-m", "data_prep"],
    ["-m", "data_prep.demo"],
    *(["-m", f"finetune.{name}"] for name in ("compare", "evaluate", "explain", "export", "folds", "hub", "predict", "space")),
]  # fmt: skip


def test_interrupted_while_it_imports_every_command_says_so_in_a_line(tmp_path: Path) -> None:
    """Whatever is imported first of those that take their time."""
    for library in ("numpy", "torch", "huggingface_hub", "tqdm", "av"):
        (tmp_path / f"{library}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    for command in COMMANDS:
        done = subprocess.run([sys.executable, *command], cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=SECONDS)  # fmt: skip
        assert (done.returncode, done.stderr) == (130, "interrupted\n"), command


@pytest.mark.parametrize("target", [_read_for_ever, _ignore_sigterm])
def test_no_process_outlives_the_error_of_its_command(
    monkeypatch: pytest.MonkeyPatch, target: Callable[..., None]
) -> None:
    monkeypatch.setattr("data_prep.errors._CHILDREN_SECONDS", 0.2)
    children = []

    def fail() -> None:
        children.append(started(target))
        raise UserError("a video cannot be read")

    assert exit_cleanly(fail)() == 2
    children[0].join(30)
    assert not children[0].is_alive()


def test_stopped_in_any_phase_the_same_command_goes_on(
    bars_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output_dir = tmp_path / "new" / "run"
    command = ["--dataset_name", str(bars_dataset), "--output_dir", str(output_dir), *FAST, "--dataloader_num_workers", "0"]  # fmt: skip

    def telling(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("not reached")

    for phase in ("check_push", "load_data", "load_start", "fit_start", "write_report"):
        with monkeypatch.context() as patch:
            patch.setattr(finetune.run, phase, telling)
            assert exit_cleanly(main)(command) == 75
        assert "the same command goes on" in capsys.readouterr().err
        mark = (output_dir / "unfinished.json").read_text()
        assert re.search('"stopped": true', mark), "for finetune/launch/slurm.sh, which queues the job again"
        assert json.loads(mark)["argv"] == command
    main(command)
    assert (output_dir / "metrics.json").exists() and not (output_dir / "unfinished.json").exists()
    assert "going on from" in capsys.readouterr().out, "training was not done again"


@pytest.mark.slow
def test_stopped_before_it_replaces_an_older_run_it_does_not_go_on_from_that_one(
    bars_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--dataset_name", str(bars_dataset), "--output_dir", str(tmp_path / "run"), *FAST, "--dataloader_num_workers", "0", "--max_steps", "1"]  # fmt: skip
    main(command)
    other = [*command, "--seed", "1", "--overwrite_output_dir"]
    with monkeypatch.context() as patch:
        patch.setattr(finetune.run, "load_data", lambda settings: os.kill(os.getpid(), signal.SIGTERM))
        assert exit_cleanly(main)(other) == 75
    capsys.readouterr()
    main(other)
    assert "going on from" not in capsys.readouterr().out


def test_another_optimizer_does_not_go_on_from_this_ones_state(bars_dataset: Path, tmp_path: Path) -> None:
    """Of a checkpoint that was copied, so that no recipe beside it says how it was trained."""
    command = ["--dataset_name", str(bars_dataset), *FAST, "--dataloader_num_workers", "0"]
    main([*command, "--output_dir", str(tmp_path / "run")])
    shutil.move(tmp_path / "run" / "checkpoint-3", tmp_path / "checkpoint-3")
    further = [*command, "--output_dir", str(tmp_path / "further"), "--num_train_epochs", "2", "--resume_from_checkpoint", str(tmp_path / "checkpoint-3")]  # fmt: skip
    for other in ("sgd", "adafactor"):
        with pytest.raises(UserError, match=f"another optimizer: its state is .*exp_avg.*--optim {other} cannot use"):
            main([*further, "--optim", other])
        assert not any((tmp_path / "further").iterdir())
    state = torch.load(tmp_path / "checkpoint-3" / "optimizer.pt", weights_only=True)
    del state["state"][0]  # as of a weight that had no gradient yet
    torch.save(state, tmp_path / "checkpoint-3" / "optimizer.pt")
    main([*further, "--optim", "adamw_torch"])


def test_a_full_disk_is_named(bars_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch reports "unexpected pos 4039360 vs 4039248" and the like; a limit on the size of files is as good a disk."""
    command = ["--dataset_name", str(bars_dataset), "--output_dir", str(tmp_path / "run"), *FAST, "--dataloader_num_workers", "0"]  # fmt: skip
    save, limits = VideoTrainer._save_optimizer_and_scheduler, resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(*args: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(VideoTrainer, "_save_optimizer_and_scheduler", fill)
        try:
            with pytest.raises(UserError, match="make room there, and the same command goes on"):
                main(command)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "run" / ".saving").exists()
    main(command)


@pytest.fixture(scope="module")
def unreadable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose videos have become unreadable since it was prepared."""
    folder = tmp_path_factory.mktemp("unreadable")
    for label, direction in (("left", -1), ("right", 1)):
        for number in range(5):
            encode(folder / "videos" / label / f"{number}.mp4", moving_bar(direction, seed=number))
    data_prep([str(folder / "videos"), str(folder / "data"), "--splits", "0.6", "0.2", "0.2", "--num_proc", "1", "--no_duplicates"])  # fmt: skip
    for video in (folder / "videos").glob("*/*.mp4"):
        video.write_bytes(b"no video" * 100)
    return folder / "data"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "workers", "more"),
    [
        ("train", "0", []),
        ("train", "1", []),
        ("train", "2", ["--dataloader_persistent_workers", "true"]),
        ("train", "2", ["--linear_probe"]),
        ("evaluate", "0", []),
        ("evaluate", "2", []),
    ],
)
def test_every_command_ends_after_its_error(
    unreadable: Path, edited: Callable[[dict], str], tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch,
    kind: str, workers: str, more: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(forks, "seconds", SECONDS)
    train = [RUN, "--dataset_name", str(unreadable), "--output_dir", "run", *FAST]
    names = ["left", "right", *(f"class {number}" for number in range(2, 7))]
    model = edited({"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}})
    evaluate = ["-m", "finetune.evaluate", model, str(unreadable), "--device", "cpu"]
    command = [*(train if kind == "train" else evaluate), "--dataloader_num_workers", workers, *more]
    done = forks.run(*command, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 2 and "cannot be opened as a video" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and left_in(tmp_path) == []


@pytest.mark.slow
def test_readers_that_persist_end_with_their_run(
    bars_dataset: Path, tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "seconds", SECONDS)
    persist = ["--dataloader_num_workers", "1", "--dataloader_persistent_workers", "true"]
    done = forks.run(RUN, "--dataset_name", str(bars_dataset), "--output_dir", "run", *FAST, *persist, cwd=tmp_path)
    assert done.returncode == 0 and left_in(tmp_path) == [], done.stderr


# A command to which, or to whose processes, something happens at a place: "place fault arguments".
FAULTY = """
import os, signal, sys
os.setsid()  # what all its processes are told, these are told
import ctypes, multiprocessing, resource, subprocess
place, fault, *arguments = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's children in the background ignore
if place == "shm":
    if ctypes.CDLL(None).unshare(0x20000) or subprocess.call(["mount", "-t", "tmpfs", "-o", "size=64k", "none", "/dev/shm"]):
        sys.exit("no mounts here")
def once(*args, done=[]):
    if done:
        return
    done.append(fault)
    if fault in ("TERM", "INT"):  # from outside, as a scheduler and a terminal send it
        subprocess.run(["kill", f"-{fault}", "--", f"-{os.getpid()}"], start_new_session=True, check=True)
    elif fault == "KILL":
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    elif fault == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
def before(owner, name):
    whole = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: (once(), whole(*args, **kwargs))[1])
from data_prep.errors import exit_cleanly
from data_prep.sigterm import interruptible, listen
if place == "reading":
    interruptible()
    from finetune.predict import main
    from finetune.use.classifier import Classifier
    before(Classifier, "logits")  # of the first videos, while the next are read
else:
    listen()
    from finetune.run import main
    from finetune.training.trainer import VideoTrainer
    before(VideoTrainer, "prediction_step" if place == "validation" else "training_step")
sys.exit(exit_cleanly(main)(arguments))
"""
SAVED = "the same command goes on"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "fault", "workers", "code", "said"),
    [
        ("training", "TERM", "2", 75, SAVED),
        ("validation", "TERM", "1", 75, SAVED),
        ("training", "INT", "1", 130, "interrupted"),
        ("training", "KILL", "1", 2, "a process that reads clips was killed"),
        ("training", "full", "1", 2, "File too large"),
        ("shm", "none", "2", 2, "shared memory"),
        ("reading", "none", "2", 0, ""),
        ("reading", "KILL", "2", 0, ""),
        ("reading", "TERM", "0", 143, ""),
        ("reading", "TERM", "2", 143, ""),
        ("reading", "INT", "1", 130, "interrupted"),
    ],
)
def test_whatever_happens_to_its_processes_a_command_ends_in_words(
    bars: Path, bars_dataset: Path, random_checkpoint: str, tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch,
    place: str, fault: str, workers: str, code: int, said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(forks, "seconds", SECONDS)
    train = ["--dataset_name", str(bars_dataset), "--output_dir", "run", *FAST, "--dataloader_num_workers", workers, "--dataloader_persistent_workers", str(workers != "0")]  # fmt: skip
    predict = [random_checkpoint, str(bars / "left"), "--output", "found.jsonl", "--device", "cpu", "--num_workers", workers]  # fmt: skip
    done = forks.run("-c", FAULTY, place, fault, *(predict if place == "reading" else train), cwd=tmp_path, PYTHONPATH=str(ROOT))  # fmt: skip
    if "no mounts here" in done.stderr:
        pytest.skip("mounting a small /dev/shm takes a privilege")
    assert done.returncode == code and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    until = time.monotonic() + 10
    while left_in(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    assert left_in(tmp_path) == []
    if place == "reading" and code == 0:
        assert len((tmp_path / "found.jsonl").read_text().splitlines()) == 20


def test_readers_that_persist_need_readers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--dataloader_persistent_workers is for processes that read"):
        main(["--dataset_name", "none", "--output_dir", str(tmp_path / "run"), *FAST, "--dataloader_num_workers", "0", "--dataloader_persistent_workers", "true"])  # fmt: skip
