"""python -m finetune.evaluate MODEL DATASET: how good a model is on the videos of a dataset, and how sure that is.

torchrun --nproc_per_node 4 -m finetune.evaluate MODEL DATASET --views 1x3 --output metrics.json --predictions predictions.csv
"""

from __future__ import annotations

import os
import sys

# As a script, this file would hide the evaluate library, which it needs.
if sys.path and os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
    sys.path.pop(0)

from data_prep.sigterm import interruptible

if __name__ == "__main__":
    interruptible()  # before what takes seconds to import

import argparse
from pathlib import Path

import torch
from accelerate import PartialState

from data_prep.errors import CommandLine, UserError, exit_cleanly, leave, printable
from data_prep.lock import only_writer
from data_prep.workers import available_cores
from finetune.clips.batch import ClipTransform
from finetune.clips.clip import ClipMaker
from finetune.clips.dataset import load_split
from finetune.clips.row_checks import has_labels
from finetune.clips.sampling import Sampling
from finetune.clips.views import AVERAGES, Views
from finetune.clips.watch import Watch, naming_videos
from finetune.model.weights import load_checkpoint
from finetune.results.evaluation import Evaluation, Protocol, evaluate_split
from finetune.results.output import check_writable, write_json
from finetune.results.predictions import write_predictions
from finetune.results.scoring import Scorer
from finetune.settings.arguments import default_workers, idle_devices
from finetune.training.room import PREFETCHED, check_shared_memory

_ON_ALL_GPUS = "torchrun --nproc_per_node {} -m finetune.evaluate ..."


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Prints, writes and returns the metrics."""
    options = parse_arguments(argv)
    device, is_main = take_device(options)
    outputs = (("--output", options.output), ("--predictions", options.predictions)) if is_main else ()
    with only_writer(*outputs):
        return evaluate(options, device, is_main)


def evaluate(options: argparse.Namespace, device: torch.device, is_main: bool) -> dict[str, float]:
    protocol, watch = Protocol(Views.parse(options.views), options.average), Watch()
    with PartialState().main_process_first():
        rows = load_split(options.dataset, options.split, options.test_fold)
    if not options.predictions and not has_labels(rows):
        raise UserError(f"{options.dataset}, split {options.split} has no labels, so nothing can be measured: add --predictions FILE.csv to write the model's answers, or choose another --split.")  # fmt: skip
    model, processor = load_checkpoint(options.model)
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error
    maker = ClipMaker(
        model.config.num_frames, ClipTransform(processor), Sampling.read_from(model.config), options.on_bad_video, watch
    )
    views = len(protocol.views)
    clips = min(PREFETCHED * options.dataloader_num_workers * max(options.batch_size, views), len(rows) * views)
    check_shared_memory(clips, model.config.num_frames, processor.crop_size, "--dataloader_num_workers, --batch_size")
    scorer = Scorer(model, options.batch_size, options.dataloader_num_workers, device)
    with naming_videos(watch):
        evaluation = evaluate_split(scorer, maker, rows, options.split, protocol)
    if is_main:
        print(in_words(evaluation))
        if options.output:
            write_json(options.output, evaluation.document())
        if options.predictions:
            write_predictions(options.predictions, evaluation, protocol.views.names())
    return evaluation.metrics


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandLine(prog="python -m finetune.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("model", metavar="MODEL", help="TimeSformer checkpoint: a directory or a Hub id")
    add("dataset", metavar="DATASET", help="dataset written by data_prep (directory, URL or Hub id), or a folder or list of videos")  # fmt: skip
    add("--split", default="test", help="train, validation, test, or all of them together (default: test)")
    add("--test_fold", type=int, help="of a dataset with folds: which of them is the split test")
    add("--views", default="1x1", help="clips x crops of each video: 1x1 (default), or as the papers 1x3, 10x3; crops are 1 or 3")  # fmt: skip
    add("--average", choices=AVERAGES, default="logits", help="what is averaged over the views of a video (default: logits, as the authors do)")  # fmt: skip
    add("--output", type=Path, metavar="FILE", help="write the metrics there, as JSON")
    add("--predictions", type=Path, metavar="FILE", help="write the scores of every video and view there, as CSV")
    add("--batch_size", type=int, default=8, help="clips that go through the model together (default: 8)")
    workers = default_workers()
    add("--dataloader_num_workers", type=int, default=workers, help=f"processes that read videos (default here: {workers})")  # fmt: skip
    add("--on_bad_video", choices=("stop", "skip"), default="stop", help="what happens when a video cannot be read any more: stop with its name (default), or skip it, list it and count it as wrong")  # fmt: skip
    add("--device", help="as cpu or cuda:1; default: an accelerator where there is one. Of several processes each takes its own")  # fmt: skip
    options = parser.parse_args(argv)
    for name, least in (("batch_size", 1), ("dataloader_num_workers", 0)):
        if getattr(options, name) < least:
            raise UserError(f"--{name} is {getattr(options, name)}, expected at least {least}.")
    Views.parse(options.views)
    for flag in ("output", "predictions"):
        if getattr(options, flag):
            check_writable(getattr(options, flag), f"--{flag}")
    return options


def take_device(options: argparse.Namespace) -> tuple[torch.device, bool]:
    """This process's device, and whether it is the one that writes. On CPU it takes the cores that read no videos."""
    state = PartialState(cpu=options.device == "cpu" or not torch.accelerator.is_available())
    alone = state.num_processes == 1 and options.device is not None
    device = torch.device(options.device) if alone else state.device
    if device.type == "cpu":
        cores = available_cores() // state.num_processes
        torch.set_num_threads(max(1, cores - options.dataloader_num_workers))
    if options.device is None and state.is_main_process and (idle := idle_devices(_ON_ALL_GPUS)):
        print(idle, file=sys.stderr)
    return device, state.is_main_process


def in_words(evaluation: Evaluation) -> str:
    """A line for each number, its interval beside it, and the protocol."""
    lines = []
    for name, value in evaluation.metrics.items():
        bounds = evaluation.intervals.get(name)
        lines.append(f"{name:<28} {value:.4f}" + (f"   {bounds[0]:.4f} to {bounds[1]:.4f}" if bounds else ""))
    if evaluation.labels is None:
        lines.append(f"{len(evaluation.rows)} videos without labels: predicted, not measured")
    else:
        lines.append(f"{len(evaluation.rows)} videos; 95 % intervals are over {evaluation.resampled}")
    lines.append(f"protocol: {evaluation.protocol}")
    return "\n".join([*lines, *(printable(reason) for _, reason in sorted(evaluation.unreadable.items()))])


if __name__ == "__main__":
    leave(exit_cleanly(main)())
