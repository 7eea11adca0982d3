"""python -m finetune.folds --dataset_name DATASET_WITH_FOLDS --output_dir OUT ...: cross-validation, a run for each fold.

Every argument is one of finetune/run.py. Each fold is a run of its own, in OUT/fold_0, OUT/fold_1, ..., tested on that fold.
The same command goes on where it was stopped: finished folds are kept.
"""

from __future__ import annotations

import sys

from data_prep.sigterm import Interrupted, listen, on_sigterm, run_to_end

if __name__ == "__main__":
    listen()  # before what takes seconds to import

import argparse
import json
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import CommandLine, UserError, exit_cleanly, printable
from data_prep.lock import only_writer
from data_prep.staying import Staying
from finetune.clips.dataset import count_folds
from finetune.results.figures import plot_confusion
from finetune.results.intervals import NUM_RESAMPLES, bootstrap, resampling_units
from finetune.results.output import write_json
from finetune.results.predictions import read_predictions
from finetune.settings.arguments import parse_arguments
from finetune.training.run_folder import UNFINISHED

_COMMAND = "folds_command.json"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Trains and tests on every fold; prints, writes and returns mean, spread and what all folds together say."""
    parser = CommandLine(prog="python -m finetune.folds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--launcher", default=shlex.quote(sys.executable), help="what starts finetune/run.py, as 'accelerate launch --num_processes 4' (default: this Python)")  # fmt: skip
    options, run_argv = parser.parse_known_args(argv)
    settings = parse_arguments(run_argv)
    if settings.data.test_fold is not None:
        raise UserError("--test_fold is what finetune.folds sets, to each fold in turn: leave it out.")
    if settings.training.push_to_hub:
        raise UserError("--push_to_hub would push every fold's model to one place: leave it out, and push the run you choose.")  # fmt: skip
    output_dir = Path(settings.training.output_dir)
    with only_writer(("--output_dir", output_dir)):
        return run_folds(output_dir, settings.data.dataset_name, shlex.split(options.launcher), run_argv)


def run_folds(output_dir: Path, dataset_name: str, launcher: list[str], run_argv: list[str]) -> dict[str, Any]:
    """Train and test on every fold that is not finished, and write what all say together."""
    check(output_dir, run_argv)
    with resumable(output_dir, run_argv):
        num_folds = count_folds(dataset_name)
        begin(output_dir, run_argv)
        folders = [output_dir / f"fold_{fold}" for fold in range(num_folds)]
        staying = Staying("--output_dir", output_dir)
        for fold, folder in enumerate(folders):
            with staying.through():
                run_fold(launcher, run_argv, fold, folder)
        with staying.through():
            found = summarise(folders)
            write_json(output_dir / "folds.json", found)
        if "confusion_matrix" in found:
            title = f"{found['num_videos']} videos, each when its fold was tested"
            plot_confusion(np.array(found["confusion_matrix"]), found["labels"], title, output_dir / "confusion_matrix.png")  # fmt: skip
    print(in_words(found, output_dir))
    return found


def check(output_dir: Path, run_argv: list[str]) -> None:
    """Raises `UserError` where the directory holds something else, or folds of another command."""
    command = output_dir / _COMMAND
    if command.is_file():
        earlier = json.loads(command.read_text(encoding="utf-8"))
        if earlier != run_argv:
            raise UserError(f"--output_dir {output_dir} holds folds of another command ({printable(shlex.join(earlier))}): give the same one, or choose another directory.")  # fmt: skip
    elif output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise UserError(f"--output_dir {output_dir} exists and holds no folds: choose another directory.")


def begin(output_dir: Path, run_argv: list[str]) -> None:
    """Makes the directory, which says whose folds it holds."""
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / _COMMAND, run_argv)


@contextmanager
def resumable(output_dir: Path, run_argv: list[str]) -> Iterator[None]:
    """End this block at SIGTERM, and mark the directory as stopped, as that of a run is (`RunFolder.resumable`)."""
    mark = output_dir / UNFINISHED

    def stop() -> None:
        raise Interrupted("stopped by SIGTERM. Not all folds are finished: the same command goes on.")

    try:
        with on_sigterm(stop):
            yield
            mark.unlink(missing_ok=True)
    except (Interrupted, SystemExit):
        with suppress(OSError):  # a place that cannot be written
            begin(output_dir, run_argv)
            write_json(mark, {"argv": run_argv, "stopped": True})
        raise


def run_fold(launcher: list[str], run_argv: list[str], fold: int, folder: Path) -> None:
    """In a process of its own, so that no fold sees anything of another. Nothing to do where its metrics are written."""
    if (folder / "metrics.json").is_file():
        print(f"fold {fold}: finished before, in {folder}", flush=True)
        return
    print(f"fold {fold}: {folder}", flush=True)
    script = Path(__file__).with_name("run.py")
    command = [*launcher, str(script), *run_argv, "--test_fold", str(fold), "--output_dir", str(folder)]
    code = run_to_end(command)  # a run that is told to stop saves where it is
    if code in (Interrupted.exit_code, -signal.SIGTERM, 128 + signal.SIGTERM):
        raise Interrupted(f"fold {fold} was stopped by SIGTERM. Not all folds are finished: the same command goes on.")
    if code != 0:
        raise UserError(f"fold {fold} ended with code {code}: see its message above. Once its cause is gone the same command goes on from there; for other settings give another --output_dir as well.")  # fmt: skip


def summarise(folders: list[Path]) -> dict[str, Any]:
    """Of finished folds: each number's values, mean and spread (standard deviation, n - 1), and the pooled videos'."""
    documents = [json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in folders]
    numbers = {
        key: [document[key] for document in documents]
        for key in documents[0]
        if key.startswith("test_") and all(isinstance(document.get(key), float) for document in documents)
    }
    spread = {
        key: {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)), "values": values}
        for key, values in numbers.items()
    }
    found = {"num_folds": len(folders), "protocol": documents[0]["protocol"], "folds": spread, **pooled(folders)}
    if all("confusion_matrix" in document for document in documents):
        matrices = np.array([document["confusion_matrix"] for document in documents])
        found |= {"labels": documents[0]["labels"], "confusion_matrix": matrices.sum(0).tolist()}
    return found


def pooled(folders: list[Path]) -> dict[str, Any]:
    """Accuracy of all videos, each answered by the model that did not see its fold, with its 95 % interval."""
    parts = [read_predictions(folder / "predictions.csv") for folder in folders]
    ids = [video_id for part in parts for video_id in part.video_ids]
    if len(set(ids)) < len(ids):
        raise UserError(f"{folders[0].parent}: a video is in two folds, so the dataset has changed between them: start anew in another directory.")  # fmt: skip
    right = np.concatenate([part.right() for part in parts])
    units, resampled = resampling_units([group for part in parts for group in part.groups], len(ids))
    bounds = bootstrap(units, lambda weights: {"accuracy": weights @ right / weights.sum(1)})
    return {
        "num_videos": len(ids),
        "pooled_accuracy": float(right.mean()),
        "pooled_accuracy_interval_95": list(bounds["accuracy"]) if bounds else None,
        "interval_over": f"{resampled}, {NUM_RESAMPLES} bootstrap resamples",
    }


def in_words(found: dict[str, Any], output_dir: Path) -> str:
    lines = [f"{'':<28} {'mean':>8} {'std':>8}   of {found['num_folds']} folds"]
    for key, values in found["folds"].items():
        shown = " ".join(f"{value:.4f}" for value in values["values"])
        lines.append(f"{key:<28} {values['mean']:>8.4f} {values['std']:>8.4f}   {shown}")
    bounds = found["pooled_accuracy_interval_95"]
    interval = f", 95 % {bounds[0]:.4f} to {bounds[1]:.4f} over {found['interval_over']}" if bounds else ""
    lines.append(f"all {found['num_videos']} videos: accuracy {found['pooled_accuracy']:.4f}{interval}")
    lines.append(f"{output_dir}: folds.json, confusion_matrix.png, and each fold's run")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(exit_cleanly(main)())
