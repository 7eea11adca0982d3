"""Fine-tune TimeSformer on a dataset of videos: arguments, data, model, train, evaluate, save, share.

accelerate launch --config_file accelerate_config.yaml finetune/run.py --dataset_name DATASET --model_name_or_path MODEL --output_dir OUT
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

# A script's own folder comes first on the path, where finetune/evaluate.py would hide the evaluate library.
if sys.path and os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
    sys.path.pop(0)

from data_prep.sigterm import listen

if __name__ == "__main__":
    listen()  # before what takes seconds to import

import torch
from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from data_prep.apart import check_repo_id
from data_prep.errors import UserError, exit_cleanly, leave
from data_prep.lock import only_writer
from data_prep.login import check_login
from data_prep.workers import available_cores
from finetune.clips.batch import Augmentation, ClipTransform, collate
from finetune.clips.clip import ClipMaker, Clips
from finetune.clips.dataset import Splits, load_splits, stream_splits
from finetune.clips.demo import prepare_demo
from finetune.clips.sampling import Sampling
from finetune.clips.stream import ParquetRows, Place, StreamedClips, steps_per_pass
from finetune.clips.views import Views
from finetune.clips.watch import Watch, naming_videos
from finetune.hub import push
from finetune.model.modeling import MULTI_LABEL
from finetune.model.named_models import NAMED_MODELS
from finetune.model.processor import tell_sampling
from finetune.model.weights import Start, load_start
from finetune.results.evaluation import Evaluation
from finetune.results.metrics import compute_metrics
from finetune.settings.arguments import (
    BEST_OF_SEVERAL,
    SMALL_DATA,
    DataArguments,
    FinetuningArguments,
    Settings,
    idle_devices,
    parse_arguments,
)
from finetune.sharing.contract import Clips as MeasuredClips
from finetune.sharing.contract import measured_clips
from finetune.sharing.report import evaluate, predict_unlabelled, print_next_commands, write_report
from finetune.training.adapters import choose_what_learns, merge_lora
from finetune.training.checkpoints import steps_done
from finetune.training.optimizer import accumulation_for
from finetune.training.probe import train_head
from finetune.training.resumption import settle_resumption
from finetune.training.room import check_room
from finetune.training.run_folder import RunFolder
from finetune.training.time_start import start_measured_time, start_time
from finetune.training.trainer import VideoTrainer

_ON_ALL_GPUS = "accelerate launch --config_file finetune/launch/multi_gpu.yaml --num_processes {} finetune/run.py ... (finetune.folds: --launcher)."


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Runs the whole way and returns the metrics of the test split (or validation, where there is no test)."""
    started = time.monotonic()
    leave_lone_process_group()
    argv = sys.argv[1:] if argv is None else argv
    settings = parse_arguments(argv)
    with only_run_in(settings.training):
        folder = RunFolder(settings, argv)
        if settings.training.process_index == 0:
            folder.check([settings.data.dataset_name, settings.model.model_name_or_path])
        with folder.resumable():
            check_push(settings)
            if folder.is_trained:
                return share_again(settings, folder)
            return train_and_share(settings, folder, argv, started)


def train_and_share(settings: Settings, folder: RunFolder, argv: list[str], started: float) -> dict[str, float]:
    """Data, model, training, evaluation, report, push. Returns the metrics."""
    checkpoint, earlier = folder.checkpoint, folder.earlier
    with settings.training.main_process_first(desc="preparing the data"):
        splits = load_data(settings)
    settings = with_advised_recipe(settings, splits, argv)
    training_args = settings.training
    use_all_cores(training_args)
    hub_model_id = take_push(training_args)
    settle_step_size(settings)
    set_seed(training_args.seed)
    start, watch = make_start(settings, splits), Watch()
    trainer = make_trainer(settings, splits, start, watch, checkpoint)
    trainer.check_sharding(checkpoint)
    check_room(trainer, len(Views.parse(settings.data.eval_views)))
    if earlier:
        settings = settle_resumption(earlier, settings, trainer)
        trainer.check_resumed_optimizer(earlier.checkpoint)
    else:
        trainer.check_warmup()
    if trainer.is_world_process_zero():
        folder.begin(settings)
        trainer.output = folder.staying
    with naming_videos(watch), folder.through():
        evaluation, predicted = learn_and_measure(trainer, settings, splits, folder, start)
    trainer.gather_unreadable()
    trainer.accelerator.end_training()  # leaves the process group, whose threads may abort a process that ends with them
    metrics = evaluation.metrics if evaluation else {}
    if trainer.is_world_process_zero():
        with folder.through():
            write_report(trainer, splits, settings, evaluation, predicted, hub_model_id, time.monotonic() - started)
        folder.finish(push_is_left=bool(hub_model_id))
        print_next_commands(settings, splits, metrics, time.monotonic() - started)
        if hub_model_id:
            answered, is_mixed = evaluation or predicted, training_args.bf16 or training_args.fp16
            clips = measured_clips(answered, trainer.train_dataset.maker, is_mixed)
            share(folder, hub_model_id, training_args.hub_private_repo, clips)
    return metrics


def make_start(settings: Settings, splits: Splits) -> Start:
    """Load the model to start from, with a head for the labels, and freeze what does not learn."""
    start = load_start(settings.model, splits.labels)
    choose_what_learns(start.model, settings.learning)
    if splits.is_multi_label:
        prepare_for_several_labels(settings, start)
    return start


def learn_and_measure(
    trainer: VideoTrainer, settings: Settings, splits: Splits, folder: RunFolder, start: Start
) -> tuple[Evaluation | None, Evaluation | None]:
    """Train, save the model, measure it, and predict a test split without labels."""
    with trainer.clock.running(folder.checkpoint):
        learn(trainer, settings, splits, folder, start)
    trainer.check_weights()
    trainer.save_model()
    views = Views.parse(settings.data.eval_views)
    found = evaluate(trainer, splits, views), predict_unlabelled(trainer, splits, views)
    trainer.remove_old_checkpoints()
    return found


def share(folder: RunFolder, hub_model_id: str, private: bool | None, clips: MeasuredClips | None = None) -> None:
    """Push what the run has written, where plain transformers predicts with it what was measured on `clips`."""
    url = push(folder.path, hub_model_id, private, clips)
    folder.finish()
    print(f"pushed to {url}")


def share_again(settings: Settings, folder: RunFolder) -> dict[str, float]:
    """Push a run that an earlier command trained and could not push. Returns the metrics that were measured then."""
    training_args = settings.training
    training_args.distributed_state.wait_for_everyone()  # all have seen the folder as it is
    training_args.distributed_state.destroy_process_group()
    if training_args.process_index == 0:
        print(f"{folder.path} was trained before, only its push is left (to train anew, delete {folder.path})", flush=True)  # fmt: skip
        share(folder, training_args.hub_model_id, training_args.hub_private_repo)
    return folder.metrics()


def only_run_in(training_args: FinetuningArguments) -> AbstractContextManager[None]:
    """Take the lock of the output directory, which the main process holds for all of a run."""
    return only_writer(("--output_dir", training_args.output_dir if training_args.process_index == 0 else None))


def learn(trainer: VideoTrainer, settings: Settings, splits: Splits, folder: RunFolder, start: Start) -> None:
    """Training, from `folder.checkpoint` on; afterwards the model is a plain one with the weights to keep."""
    learning = settings.learning
    if not folder.checkpoint:
        fit_start(trainer, splits, start)
    if learning.linear_probe:
        return
    try:
        trainer.train(resume_from_checkpoint=folder.checkpoint)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of memory ({' '.join(str(error).split())[:120]}). In this order: a smaller --per_device_train_batch_size "
            "(with --target_batch_size the result stays the same), --gradient_checkpointing true, --bf16 true; "
            "--auto_find_batch_size true tries by itself."
        ) from error
    if learning.lora_rank:
        merge_lora(trainer.model)


def fit_start(trainer: VideoTrainer, splits: Splits, start: Start) -> None:
    """Start the head and the layers of time from the training videos, where that is asked for, before all weights learn."""
    learning = trainer.learning
    wanted_time = learning.time_start if start.has_new_times else "zeros"
    probed = learning.linear_probe or (learning.head_start == "linear_probe" and start.has_new_head)
    if wanted_time == "zeros" and not probed:
        return
    trainer.model.to(trainer.args.device)  # Trainer leaves it where it was until it is sharded (FSDP)
    if wanted_time == "auto" and start.has_new_head:
        start_measured_time(trainer, splits)  # and the head
        return
    if wanted_time == "contrast":
        start_time(trainer, splits)
    if probed:
        train_head(trainer, splits)


def with_advised_recipe(settings: Settings, splits: Splits, argv: list[str]) -> Settings:
    """A small dataset and trained weights to start from: what the recipe small_data says, where no recipe is named."""
    num_videos = len(splits.train)
    random_start = settings.model.model_name_or_path in NAMED_MODELS
    if settings.config is not None or settings.data.streaming or random_start or num_videos > SMALL_DATA:
        return settings
    if settings.training.process_index == 0:
        print(f"{num_videos} training videos: settings that are not given are those of --config small_data (--config none: of transformers)")  # fmt: skip
    return parse_arguments(argv, recipe="small_data")


def prepare_for_several_labels(settings: Settings, start: Start) -> None:
    """Each label is a question of its own: sigmoid and binary cross-entropy, and no single right answer to count."""
    learning, training = settings.learning, settings.training
    if learning.class_weights or learning.sampler == "balanced":
        raise UserError("videos have several labels each: leave out --class_weights and --sampler balanced, which are for one.")  # fmt: skip
    start.model.config.problem_type = MULTI_LABEL
    best = training.metric_for_best_model
    if best == "top1":
        training.metric_for_best_model = "mean_average_precision"
    elif training.load_best_model_at_end and best not in BEST_OF_SEVERAL:
        raise UserError(f"--metric_for_best_model {best} is for one label per video; here: {', '.join(BEST_OF_SEVERAL)}.")  # fmt: skip


def settle_step_size(settings: Settings) -> None:
    """Gradient accumulation and learning rate from the sizes that are asked for, with the rules printed."""
    learning, training = settings.learning, settings.training
    per_device, processes = training.per_device_train_batch_size, training.world_size
    if learning.target_batch_size is not None:
        training.gradient_accumulation_steps = accumulation_for(learning.target_batch_size, per_device, processes)
    accumulated = training.gradient_accumulation_steps
    clips = per_device * processes * accumulated
    rules = [f"{clips} clips a step: {per_device} x {processes} processes x {accumulated} accumulated"]
    if learning.lr_batch_size is not None:
        asked = training.learning_rate
        training.learning_rate = asked * clips / learning.lr_batch_size
        rules.append(f"learning rate {asked:g} x {clips}/{learning.lr_batch_size} = {training.learning_rate:g}")
    if training.process_index == 0:
        print("; ".join(rules), flush=True)
        if not training.use_cpu and (idle := idle_devices(_ON_ALL_GPUS)):
            print(idle, flush=True)


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


def check_push(settings: Settings) -> None:
    """Raise `UserError` for a push that could not be done: a missing login would be met only after the training."""
    if settings.training.process_index == 0 and settings.training.push_to_hub:
        check_repo_id(settings.training.hub_model_id)
        check_login()


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
        data_args.color_jitter, data_args.auto_augment, data_args.random_erasing, data_args.inverse_jitter,
    )  # fmt: skip
    transform = ClipTransform(start.processor, augmentation)
    return ClipMaker(config.num_frames, transform, sampling, data_args.on_bad_video, watch, config.num_labels)


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
            learning=settings.learning,
            store=splits.summary.get("store"),
            eval_dataset=validation,
            data_collator=collate,
            processing_class=start.processor,
            compute_metrics=compute_metrics,
        )
    except (ValueError, RuntimeError, ImportError) as error:  # settings that do not go together, a logger not installed
        raise UserError(" ".join(str(error).split())) from error


if __name__ == "__main__":
    leave(exit_cleanly(main)())
