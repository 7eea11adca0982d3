"""Fine-tune TimeSformer on a dataset of videos: arguments, data, model, train, evaluate, save, share.

accelerate launch --config_file accelerate_config.yaml finetune/run.py --dataset_name DATASET --model_name_or_path MODEL --output_dir OUT
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

# A script's own folder comes first on the path, where finetune/evaluate.py would hide the evaluate library.
if sys.path and os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
    sys.path.pop(0)

import torch
import yaml
from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from data_prep.errors import UserError, exit_cleanly
from data_prep.workers import available_cores
from finetune.arguments import DataArguments, FinetuningArguments, Settings, parse_arguments
from finetune.batch import Augmentation, ClipTransform, collate
from finetune.clip import ClipMaker, Clips
from finetune.contract import measured_clips
from finetune.dataset import Splits, load_splits, stream_splits
from finetune.demo import prepare_demo
from finetune.hub import check_login, push
from finetune.metrics import compute_metrics
from finetune.processor import tell_sampling
from finetune.report import evaluate, print_next_commands, write_report
from finetune.sampling import Sampling
from finetune.stream import ParquetRows, Place, StreamedClips, steps_per_pass
from finetune.trainer import VideoTrainer, check_resumed_labels, checkpoint_to_resume, steps_done
from finetune.watch import Watch, naming_videos
from finetune.weights import Start, load_start

RECIPE = "recipe.yaml"


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Runs the whole way and returns the metrics of the test split (or validation, where there is no test)."""
    started = time.monotonic()
    leave_lone_process_group()
    settings = parse_arguments(sys.argv[1:] if argv is None else argv)
    training_args, model_args = settings.training, settings.model
    use_all_cores(training_args)
    hub_model_id = take_push(training_args)
    check_before_work(settings, hub_model_id)
    checkpoint = checkpoint_to_resume(training_args.output_dir, training_args.resume_from_checkpoint)
    with training_args.main_process_first(desc="preparing the data"):
        splits = load_data(settings)
    set_seed(training_args.seed)
    start = load_start(model_args, splits.labels)
    if checkpoint:
        check_resumed_labels(checkpoint, splits.labels)
    watch = Watch()
    trainer = make_trainer(settings, splits, start, watch, checkpoint)
    make_output_dir(settings)
    with naming_videos(watch):
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        evaluation = evaluate(trainer, splits)
    trainer.gather_unreadable()
    metrics = evaluation.metrics if evaluation else {}
    if trainer.is_world_process_zero():
        write_report(trainer, splits, settings, evaluation, hub_model_id, time.monotonic() - started)
        print_next_commands(settings, splits, metrics, time.monotonic() - started)
        if hub_model_id:
            clips = measured_clips(evaluation, trainer.train_dataset.maker, training_args.bf16 or training_args.fp16)
            url = push(Path(training_args.output_dir), hub_model_id, training_args.hub_private_repo, clips)
            print(f"pushed to {url}")
    return metrics


def leave_lone_process_group() -> None:
    """One process needs no process group, but would start one where the launcher tells it its rank."""
    if os.environ.get("WORLD_SIZE") == "1":
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            os.environ.pop(name, None)


def use_all_cores(training_args: FinetuningArguments) -> None:
    """On CPU, a thread for each core that reads no clips: accelerate sets OMP_NUM_THREADS to 1 for every launch."""
    if training_args.use_cpu:
        cores = available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, cores - training_args.dataloader_num_workers))


def take_push(training_args: FinetuningArguments) -> str | None:
    """The repository to push to at the end. Trainer must not push: it would end the run when the Hub is down at its start."""
    hub_model_id = training_args.hub_model_id if training_args.push_to_hub else None
    training_args.push_to_hub = False
    return hub_model_id


def check_before_work(settings: Settings, hub_model_id: str | None) -> None:
    """What would spoil the end is found out at the start: a directory that must not be touched, a missing login."""
    training_args, output_dir = settings.training, Path(settings.training.output_dir)
    if training_args.process_index != 0:
        return
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"--output_dir {output_dir} is a file: give a directory.")
    if output_dir.is_dir() and any(output_dir.iterdir()):
        goes_on = training_args.resume_from_checkpoint
        if not goes_on and not training_args.overwrite_output_dir:
            raise UserError(f"--output_dir {output_dir} exists: choose another, continue it with --resume_from_checkpoint, or replace it with --overwrite_output_dir.")  # fmt: skip
        if not (output_dir / RECIPE).is_file():
            raise UserError(f"--output_dir {output_dir} is not a run of this project, so it is left alone: choose another.")  # fmt: skip
        for needed in (settings.data.dataset_name, settings.model.model_name_or_path):
            if not goes_on and output_dir.resolve() in (Path(needed).resolve(), *Path(needed).resolve().parents):
                raise UserError(f"--overwrite_output_dir would delete {needed}, which this run needs: choose another --output_dir.")  # fmt: skip
    if hub_model_id:
        check_login(hub_model_id)


def load_data(settings: Settings) -> Splits:
    data_args, training_args = settings.data, settings.training
    if data_args.demo_videos_per_class and training_args.process_index == 0:
        prepare_demo(Path(data_args.dataset_name), data_args.demo_videos_per_class)
    need_validation = training_args.eval_strategy != "no"
    if data_args.streaming:
        return stream_splits(data_args.dataset_name, need_validation)
    return load_splits(data_args.dataset_name, need_validation, data_args.test_fold)


def count_in_steps(training_args: FinetuningArguments, num_rows: int) -> None:
    """A stream has no end: epochs become steps, in training, evaluation and saving."""
    steps = steps_per_pass(num_rows, training_args.train_batch_size, training_args.world_size, training_args.gradient_accumulation_steps)  # fmt: skip
    if training_args.max_steps < 0:
        training_args.max_steps = max(1, round(training_args.num_train_epochs * steps))
    if training_args.eval_strategy == "epoch":
        training_args.eval_strategy, training_args.eval_steps = IntervalStrategy.STEPS, steps
    if training_args.save_strategy == "epoch":
        training_args.save_strategy, training_args.save_steps = SaveStrategy.STEPS, steps
    training_args.ignore_data_skip = True  # `StreamedClips` goes on without reading what was seen


def train_clips(
    splits: Splits, maker: ClipMaker, training_args: FinetuningArguments, checkpoint: str | None
) -> Clips | StreamedClips:
    """The clips to train on, from where `checkpoint` had come."""
    if not isinstance(splits.train, ParquetRows):
        return Clips(splits.train, maker, training=True, seed=training_args.seed)
    count_in_steps(training_args, len(splits.train))
    place = Place(
        training_args.process_index, training_args.world_size, training_args.train_batch_size,
        steps_done(checkpoint) * training_args.gradient_accumulation_steps,
    )  # fmt: skip
    return StreamedClips(splits.train, maker, training_args.seed, place)


def make_output_dir(settings: Settings) -> None:
    """Makes the run's directory, emptied unless the run goes on in it, with the recipe of the run."""
    training_args, output_dir = settings.training, Path(settings.training.output_dir)
    if training_args.process_index != 0:
        return
    recipe = yaml.safe_dump(settings.recipe, sort_keys=False)
    if output_dir.is_dir() and not training_args.resume_from_checkpoint:
        for path in output_dir.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / RECIPE).write_text(recipe, encoding="utf-8")


def make_clips(data_args: DataArguments, start: Start, watch: Watch) -> ClipMaker:
    """How clips are made. The sampling that is asked for, or else the checkpoint's own, goes into the model's config."""
    config = start.model.config
    sampling = Sampling.read_from(config)
    if data_args.sampling is not None:
        sampling = Sampling(data_args.sampling, data_args.frame_stride or 1, data_args.target_fps)
    elif data_args.target_fps is not None:
        sampling = replace(sampling, target_fps=data_args.target_fps)
    sampling.write_to(config)
    tell_sampling(start.processor, sampling)
    jitter, scale = data_args.short_side_jitter, data_args.crop_scale
    augmentation = Augmentation(
        (jitter[0], jitter[1]) if jitter else None, (scale[0], scale[1]) if scale else None, not data_args.no_flip,
        data_args.color_jitter, data_args.auto_augment, data_args.random_erasing,
    )  # fmt: skip
    transform = ClipTransform(start.processor, augmentation)
    return ClipMaker(config.num_frames, transform, sampling, data_args.on_bad_video, watch)


def make_trainer(
    settings: Settings, splits: Splits, start: Start, watch: Watch, checkpoint: str | None
) -> VideoTrainer:
    maker = make_clips(settings.data, start, watch)
    train = train_clips(splits, maker, settings.training, checkpoint)
    validation = Clips(splits.validation, maker, training=False) if splits.validation else None
    if settings.training.process_index == 0:
        print(start.message, flush=True)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(settings.training.output_dir) / "logs")
    try:
        return VideoTrainer(
            model=start.model,
            args=settings.training,
            train_dataset=train,
            store=splits.summary.get("store"),
            eval_dataset=validation,
            data_collator=collate,
            processing_class=start.processor,
            compute_metrics=compute_metrics,
        )
    except (ValueError, RuntimeError, ImportError) as error:  # settings that do not go together, a logger not installed
        raise UserError(" ".join(str(error).split())) from error


if __name__ == "__main__":
    sys.exit(exit_cleanly(main)())
