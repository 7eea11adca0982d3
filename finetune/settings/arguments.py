"""Command line and recipe file -> validated dataclasses."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments

from data_prep.errors import UserError, check_finite
from data_prep.workers import available_cores
from finetune.clips.sampling import MAX_TARGET_FPS, STRATEGIES
from finetune.clips.views import Views
from finetune.model.wanted import ModelArguments, check_model
from finetune.settings.learning import LearningArguments, check_learning
from finetune.settings.ranges import check_training_ranges
from finetune.settings.recipe import NO_RECIPE, RECIPES, recipe_names, recipe_of, recipe_path, recipe_words

SMALL_DATA = 2000  # training videos up to which small_data.yaml gives the defaults


@dataclass
class DataArguments:
    """What is trained on, and how a clip of it is augmented."""

    dataset_name: str = field(default="", metadata={"help": "Directory or URL (s3://...) written by data_prep, a folder or list of videos (prepared first, and cached), or a Hub dataset id. Without it the embedded demonstration runs."})  # fmt: skip
    test_fold: int | None = field(default=None, metadata={"help": "Of a dataset with folds (data_prep --folds): test on this one, validate on the next, train on the others."})  # fmt: skip
    no_flip: bool = field(default=False, metadata={"help": "Never mirror clips: for classes in which left and right matter."})  # fmt: skip
    streaming: bool = field(default=False, metadata={"help": "Read the training videos from Parquet files as they come, from a URL, the Hub or a directory, without a copy on disk. Epochs are then counted in steps."})  # fmt: skip
    sampling: str | None = field(default=None, metadata={"choices": STRATEGIES, "help": "Which frames make a clip. uniform: a random one of each of equal segments, in evaluation the first, as transformers' pipeline does; segments: likewise, in evaluation the middle one; dense: frames --frame_stride apart, from a random start, in evaluation from the middle. Default: the checkpoint's own, or uniform."})  # fmt: skip
    frame_stride: int | None = field(default=None, metadata={"help": "With --sampling dense: how many frames lie from one frame of a clip to the next."})  # fmt: skip
    target_fps: float | None = field(default=None, metadata={"help": "Count frames at this rate (1/s), by the times at which they are shown, whatever rate each video has."})  # fmt: skip
    on_bad_video: Literal["stop", "skip"] = field(default="stop", metadata={"help": "What happens when a video of the dataset cannot be read any more: stop the run with its name, or skip it, count it and list it in metrics.json and the card (evaluation then counts it as wrong)."})  # fmt: skip
    crop_scale: list[float] | None = field(default=None, metadata={"help": "Random resized crop in place of --short_side_jitter: the smallest and largest share of the picture's area, as 0.5 1."})  # fmt: skip
    color_jitter: float = field(default=0.0, metadata={"help": "Largest relative change of brightness, contrast and saturation of a training clip, as 0.4."})  # fmt: skip
    auto_augment: Literal["randaugment", "trivialaugment"] | None = field(default=None, metadata={"help": "torchvision's RandAugment or TrivialAugment for training clips, the same for all frames of a clip."})  # fmt: skip
    random_erasing: float = field(default=0.0, metadata={"help": "Probability that a rectangle of a training clip is blanked, in all its frames."})  # fmt: skip
    short_side_jitter: list[int] | None = field(default=None, metadata={"help": "Smallest and largest short side (px) a training clip is resized to before its random crop. Default: the authors' 256 320 for a crop of 224, in proportion to the crop."})  # fmt: skip
    inverse_jitter: bool = field(default=False, metadata={"help": "Draw the short side so that its inverse is uniform, as the authors do on Something-Something v2: small ones come more often."})  # fmt: skip
    eval_views: str = field(default="1x1", metadata={"help": "Views of each video in the final evaluation, clips x crops, averaged: 1x3 and 10x3 are the papers'. During training it is one, always."})  # fmt: skip
    demo_videos_per_class: int | None = field(default=None, metadata={"help": "First write this many demonstration videos of each class beside DATASET_NAME and prepare them as that dataset."})  # fmt: skip


# Of validation, to choose the best checkpoint by; the second of several labels per video.
BEST_OF_ONE = ("top1", "top5", "mean_class_accuracy", "macro_f1", "weighted_f1", "loss")
BEST_OF_SEVERAL = ("mean_average_precision", "macro_f1", "micro_f1", "subset_accuracy", "loss")
METRICS = tuple(dict.fromkeys([*BEST_OF_ONE, *BEST_OF_SEVERAL]))


def default_workers() -> int:
    """Beside an accelerator a process for each core but one, 16 at most; where the cores compute themselves, half of them."""
    cores = available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(16, max(1, cores - 1)) if torch.accelerator.is_available() else min(4, max(1, cores // 2))


def idle_devices(command: str) -> str | None:
    """Return the line for a machine with more GPUs than processes, each of which computes on one; None for others.

    `command` uses all GPUs, whose number stands at its `{}`.
    """
    processes, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.accelerator.device_count()
    if processes >= devices:
        return None
    verb = "is" if processes == 1 else "are"
    return f"{processes} of {devices} GPUs {verb} used, one by each process. For all of them: {command.format(devices)}"


@dataclass
class FinetuningArguments(TrainingArguments):
    """transformers' TrainingArguments with defaults for this job, and what they cannot say."""

    output_dir: str = field(default="", metadata={"help": "Directory of the run: checkpoint, card, pictures, predictions."})  # fmt: skip
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace the run in output_dir."})
    resume_from_checkpoint: str | None = field(default=None, metadata={"nargs": "?", "const": "latest", "help": "Continue the run in output_dir from its newest complete checkpoint, or from the one named."})  # fmt: skip
    eval_strategy: str = field(default="epoch", metadata={"help": "When the validation split is evaluated: no, steps or epoch."})  # fmt: skip
    save_strategy: str = field(default="epoch", metadata={"help": "When a checkpoint is saved: no, steps, epoch or best."})  # fmt: skip
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept beside the best one."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the checkpoint that was best on validation."})  # fmt: skip
    metric_for_best_model: str | None = field(default="top1", metadata={"help": "Validation metric that says which checkpoint is best: top1, top5, mean_class_accuracy, macro_f1, weighted_f1 or loss; of several labels per video mean_average_precision (then the default), macro_f1, micro_f1, subset_accuracy or loss."})  # fmt: skip
    logging_steps: float = field(default=10, metadata={"help": "Log every this many steps."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide NaN and infinite losses in the logs."})
    report_to: str = field(default="tensorboard", metadata={"help": "Where logs go: tensorboard, wandb, trackio, ..., none."})  # fmt: skip
    hub_strategy: str = field(default="end", metadata={"help": "Must stay end: the finished run is checked and pushed once, so that the Hub can neither slow training down nor end it."})  # fmt: skip
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay False: clips are read from columns the model does not know."})  # fmt: skip
    dataloader_num_workers: int = field(default=default_workers(), metadata={"help": "Processes that read clips. Default: beside a GPU one for each core but one, 16 at most; where the cores compute themselves, half of them, 4 at most."})  # fmt: skip

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():
            self.use_cpu = True
        if self.use_cpu:
            self.dataloader_pin_memory = False  # it would only warn
        if (self.resume_from_checkpoint or "").lower() in ("", "no", "false"):
            self.resume_from_checkpoint = None
        if self.eval_strategy == "no":
            self.load_best_model_at_end = False
        self.restore_callback_states_from_checkpoint = True  # how patient early stopping still is
        if self.metric_for_best_model is not None:
            self.greater_is_better = not self.metric_for_best_model.endswith("loss")
        super().__post_init__()

    @property
    def n_gpu(self) -> int:
        """Devices of this process, at most one.

        Of all GPUs that one process sees Trainer makes an `nn.DataParallel`: a step then takes more clips than it says,
        and its loss, which is divided by the clips of the whole step, comes out once for each GPU.
        """
        return min(1, super().n_gpu)


Arguments = tuple[DataArguments, ModelArguments, LearningArguments, FinetuningArguments]


@dataclass(frozen=True)
class Settings:
    """Everything that was asked for. `recipe` is the flat list that `--config` reads back; `changes` says what of it was
    set otherwise until which step of a run that went on.
    """

    data: DataArguments
    model: ModelArguments
    learning: LearningArguments
    training: FinetuningArguments
    recipe: dict[str, Any]
    config: str | None = None  # the name or file it came from
    changes: tuple[str, ...] = ()


class _Parser(HfArgumentParser):
    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        """Reject NaN here: the dataclasses' own checks fail on it with tracebacks."""
        parsed = super().parse_known_args(*args, **kwargs)
        check_finite(vars(parsed[0]))
        return parsed

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. Run with --help to see every flag.")


def parse_arguments(argv: list[str], recipe: str | None = None) -> Settings:
    """Settings from the command line `argv` over those of `--config` (a shipped recipe's name, or a file) over the
    defaults. `recipe` is a shipped one's name that stands in where the command line names none. Raises `UserError`.

    Without `--dataset_name` on either, the demonstration's recipe gives the defaults.
    """
    parser = _Parser(
        (DataArguments, ModelArguments, LearningArguments, FinetuningArguments),
        prog="finetune/run.py",
        description="Fine-tune TimeSformer on a dataset of videos.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", help=f"Settings, over which the command line wins: a recipe of this project ({', '.join(recipe_names())}), a YAML file with one flat list, or none.")  # fmt: skip
    arguments, config = _parse(parser, argv)
    config = config or recipe
    if config not in (None, NO_RECIPE):
        argv = recipe_words(recipe_path(config), parser, argv) + argv
        arguments, _ = _parse(parser, argv)
    if not arguments[0].dataset_name:
        print("no --dataset_name given: running the embedded demonstration")
        argv = recipe_words(RECIPES / "demo.yaml", parser, argv) + argv
        arguments, _ = _parse(parser, argv)
    _check(*arguments)
    return Settings(*arguments, recipe_of(arguments, argv, parser), config)


def _parse(parser: _Parser, argv: list[str]) -> tuple[Arguments, str | None]:
    try:
        data, model, learning, training, extra, unknown = parser.parse_args_into_dataclasses(
            argv, return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, TypeError, ImportError) as error:  # TrainingArguments' own checks
        raise UserError(" ".join(str(error).split())) from error
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        close = difflib.get_close_matches(unknown[0].split("=")[0], flags, n=1)
        hint = f" Did you mean {close[0]}?" if close else " Run with --help to see every flag."
        raise UserError(f"unknown argument {unknown[0]}.{hint}")
    return (data, model, learning, training), extra.config


def _check(
    data: DataArguments, model: ModelArguments, learning: LearningArguments, training: FinetuningArguments
) -> None:
    check_finite(vars(training))  # again: what came as JSON is read by now
    check_model(model)
    _check_training(training)
    check_training_ranges(training, has_steps=not learning.linear_probe)
    check_learning(learning)
    if learning.early_stopping_patience is not None and not training.load_best_model_at_end:
        raise UserError("--early_stopping_patience needs evaluations and the best checkpoint: leave out --eval_strategy no and --load_best_model_at_end false.")  # fmt: skip
    if training.dataloader_persistent_workers and not training.dataloader_num_workers:
        raise UserError("--dataloader_persistent_workers is for processes that read: give --dataloader_num_workers 1 or more, or leave it out.")  # fmt: skip
    if data.streaming and (
        learning.sampler != "random"
        or learning.repeated_augmentation > 1
        or learning.linear_probe
        or learning.head_start != "random"
        or learning.time_start != "zeros"
    ):
        raise UserError("--streaming reads videos in the order they come: leave out --sampler, --repeated_augmentation, --linear_probe, --head_start and --time_start.")  # fmt: skip
    _check_clips(data)


def _check_training(training: FinetuningArguments) -> None:
    if not training.output_dir:
        raise UserError("--output_dir is missing: give the directory the run is written to.")
    if training.remove_unused_columns:
        raise UserError("--remove_unused_columns must stay False: it would drop the videos before clips are read.")
    if training.hub_token is not None:
        raise UserError(
            "--hub_token would be written into the run's files: log in with `hf auth login` or set HF_TOKEN."
        )
    if training.hub_strategy != "end":
        raise UserError(
            "--hub_strategy must stay end: the finished run is checked and pushed once. Its checkpoints stay in output_dir."
        )
    if training.hub_revision is not None:
        raise UserError("--hub_revision is not supported: the run is pushed to main. Leave it out.")
    if training.push_to_hub and "/" not in (training.hub_model_id or ""):
        raise UserError("--push_to_hub needs --hub_model_id, as me/name.")
    best = (training.metric_for_best_model or "").removeprefix("eval_")
    if training.load_best_model_at_end and best not in METRICS:
        raise UserError(f"--metric_for_best_model is {best!r}, expected one of {', '.join(METRICS)}.")
    if training.train_sampling_strategy != "random":
        raise UserError(
            "--train_sampling_strategy must stay random: the order of the videos is a function of seed and epoch; --sampler is for classes."
        )
    for name in ("prediction_loss_only", "batch_eval_metrics"):
        if getattr(training, name):
            raise UserError(f"--{name} is not supported: the metrics need every video's logits.")


def _check_clips(data: DataArguments) -> None:
    Views.parse(data.eval_views)
    if data.streaming and (data.test_fold is not None or data.demo_videos_per_class):
        raise UserError("--streaming is for Parquet files with splits, not for folds or the demonstration.")
    if (data.sampling == "dense") != (data.frame_stride is not None):
        raise UserError(
            "--sampling dense and --frame_stride go together: give both, as --sampling dense --frame_stride 4."
        )
    if data.frame_stride is not None and data.frame_stride < 1:
        raise UserError(f"--frame_stride is {data.frame_stride}, expected at least 1.")
    if data.target_fps is not None and not 0 < data.target_fps <= MAX_TARGET_FPS:
        raise UserError(f"--target_fps is {data.target_fps:g}, expected frames per second, as 8.")
    scale = data.crop_scale
    if scale is not None and (len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1):
        raise UserError(f"--crop_scale is {scale}: expected the smallest and the largest share of the area, as 0.5 1.")
    jitter = data.short_side_jitter
    if jitter is not None and (len(jitter) != 2 or not 1 <= jitter[0] <= jitter[1]):
        raise UserError(
            f"--short_side_jitter is {jitter}: expected the smallest and the largest short side, as 256 320."
        )
    if scale is not None and data.short_side_jitter is not None:
        raise UserError("--crop_scale stands in place of --short_side_jitter: leave one of them out.")
    for name in ("color_jitter", "random_erasing"):
        if not 0 <= getattr(data, name) <= 1:
            raise UserError(f"--{name} is {getattr(data, name):g}, expected 0 to 1.")
