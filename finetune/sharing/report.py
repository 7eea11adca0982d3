"""After training: the final evaluation, and every file a reader of the run opens."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from finetune.clips.clip import ClipMaker
from finetune.clips.dataset import Splits
from finetune.clips.views import Views
from finetune.clips.watch import describe_unreadable
from finetune.results.evaluation import Evaluation, Protocol, choose_thresholds, evaluate_split
from finetune.results.examples import examples, hardest, make_strips
from finetune.results.figures import plot_confusion, plot_curves, plot_label_scores, plot_predictions
from finetune.results.output import write_json
from finetune.results.predictions import write_predictions
from finetune.results.scoring import Scorer
from finetune.settings.arguments import Settings
from finetune.sharing.card import render_card
from finetune.sharing.card_facts import collect_facts
from finetune.training.trainer import VideoTrainer

_PRINTED = ("top1", "top5", "mean_average_precision", "macro_f1", "loss")  # the others are in metrics.json


def evaluate(trainer: VideoTrainer, splits: Splits, views: Views) -> Evaluation | None:
    """Evaluates on test, on validation where there is no test, and not at all where there is neither.

    Of several labels per video, validation also chooses from which score on each is given.
    """
    args, maker, protocol = trainer.args, trainer.train_dataset.maker, Protocol(views)
    split = "test" if splits.test is not None else "validation"
    rows = splits.test if splits.test is not None else splits.validation
    if splits.is_multi_label:
        trainer.model.config.label_thresholds = None  # of what training started from
        if splits.validation is not None:
            choose_thresholds(_scorer(trainer), maker, splits.validation, protocol)
        if trainer.is_world_process_zero():
            trainer.model.config.save_pretrained(args.output_dir)
    if rows is None:
        return None
    evaluation = evaluate_split(_scorer(trainer), maker, rows, split, protocol)
    trainer.unreadable.update(evaluation.unreadable)
    return evaluation


def predict_unlabelled(trainer: VideoTrainer, splits: Splits, views: Views) -> Evaluation | None:
    """The answers for a test split that has no labels; None for any other. `evaluate` chooses the thresholds first."""
    rows = splits.unlabelled
    if rows is None:
        return None
    predicted = evaluate_split(_scorer(trainer), trainer.train_dataset.maker, rows, "test", Protocol(views))
    trainer.unreadable.update(predicted.unreadable)
    return predicted


def _scorer(trainer: VideoTrainer) -> Scorer:
    args = trainer.args
    return Scorer(trainer.model, args.per_device_eval_batch_size, args.dataloader_num_workers, args.device)


def write_report(
    trainer: VideoTrainer,
    splits: Splits,
    settings: Settings,
    evaluation: Evaluation | None,
    predicted: Evaluation | None,
    hub_model_id: str | None,
    seconds: float,
) -> None:
    """Writes predictions, pictures, the card, and last metrics.json into the run's directory.

    `predicted` are test videos without labels: then predictions.csv is of them.
    """
    output_dir = Path(trainer.args.output_dir)
    facts = collect_facts(trainer, splits, settings, evaluation, hub_model_id, seconds)
    plot_curves(trainer.state.log_history, output_dir / "curves.png")
    answered = predicted or evaluation
    if answered is not None:
        write_predictions(output_dir / "predictions.csv", answered, Views.parse(settings.data.eval_views).names())
    if evaluation is not None:
        write_pictures(evaluation, trainer.train_dataset.maker, output_dir)
    (output_dir / "README.md").write_text(render_card(facts), encoding="utf-8")
    document: dict[str, Any] = {"labels": splits.labels} if evaluation is None else evaluation.document()
    if predicted is not None:
        document["num_unlabelled"] = len(predicted.rows)
    if trainer.unreadable:  # those of training too
        document["unreadable"] = describe_unreadable(trainer.unreadable)
    write_json(output_dir / "metrics.json", document)


def write_pictures(evaluation: Evaluation, maker: ClipMaker, output_dir: Path) -> None:
    title = f"{evaluation.split} videos"
    if evaluation.is_multi_label:  # who is taken for whom is not defined where nobody has to be taken for one
        plot_label_scores(evaluation.computed["per_class"], evaluation.names, title, output_dir / "per_class.png")
    else:
        matrix = np.array(evaluation.computed["confusion_matrix"])
        plot_confusion(matrix, evaluation.names, title, output_dir / "confusion_matrix.png")
    for name, chosen in (("predictions", examples(evaluation)), ("hardest_clips", hardest(evaluation))):
        plot_predictions(make_strips(evaluation, chosen, maker), output_dir / f"{name}.png")


def print_next_commands(settings: Settings, splits: Splits, metrics: dict[str, float], seconds: float) -> None:
    """The run's result, and the three commands a user types next."""
    output_dir, data_args = settings.training.output_dir, settings.data
    classes = "per_class.png" if splits.is_multi_label else "confusion_matrix.png"
    shown = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items() if name.endswith(_PRINTED))
    print(f"\n{shown or 'no split to evaluate on'}  ({seconds:.0f} s)")
    if splits.unlabelled is not None:
        print(f"{len(splits.unlabelled)} test videos have no labels: predicted (predictions.csv), not measured")
    print(
        f"{output_dir}: checkpoint, README.md (model card), first_batch.png, curves.png, {classes}, predictions.png, hardest_clips.png, predictions.csv, metrics.json\n"
    )
    rows = splits.test if splits.test is not None else splits.train
    first = rows[0] if isinstance(rows, Dataset) else {}
    video = (first.get("video") or {}).get("path") or ""
    if data_args.demo_videos_per_class:
        video = f"{data_args.dataset_name}_videos/{first['video_id']}"
    video = shlex.quote(video) if Path(video).is_file() else "VIDEO.mp4"
    launch = "accelerate launch --config_file accelerate_config.yaml finetune/run.py"
    print("next:")
    print(f"  python -m finetune.predict {shlex.quote(output_dir)} {video}")
    print(
        f"  {launch} --dataset_name MY_VIDEOS --model_name_or_path facebook/timesformer-base-finetuned-k400 --output_dir runs/mine"
    )
    print(f"  python -m finetune.hub push {shlex.quote(output_dir)} ME/NAME")
