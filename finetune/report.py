"""After training: the final evaluation, and every file a reader of the run opens."""

from __future__ import annotations

import csv
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from data_prep.errors import UserError
from finetune.arguments import Settings
from finetune.card import CardFacts, render_card
from finetune.card_facts import collect_facts
from finetune.clip import IGNORED, ClipMaker, Clips, Rows, read_clip
from finetune.dataset import Splits
from finetune.figures import plot_confusion, plot_curves, plot_predictions
from finetune.metrics import compute_all
from finetune.trainer import VideoTrainer
from finetune.watch import describe_unreadable


@dataclass(frozen=True)
class Evaluation:
    """One split's videos, each once: scores float32 `(videos, classes)` and labels int64 `(videos,)`.

    The label is `IGNORED` where the video could not be read, which counts as wrong in top-1 and top-5; the other numbers
    are of the videos that could.
    """

    split: str
    rows: Dataset
    scores: np.ndarray
    labels: np.ndarray
    metrics: dict[str, float]  # {split_top1, split_top5, split_macro_f1, split_loss}
    computed: dict[str, Any]  # everything `finetune.metrics` knows, matrices too
    clips_per_second: float


def evaluate(trainer: VideoTrainer, splits: Splits) -> Evaluation | None:
    """Evaluates on test, on validation where there is no test, and not at all where there is neither."""
    split = "test" if splits.test is not None else "validation"
    rows = splits.test if splits.test is not None else splits.validation
    if rows is None:
        return None
    output = trainer.predict(Clips(rows, trainer.train_dataset.maker, training=False), metric_key_prefix=split)
    if (output.label_ids == IGNORED).all():
        raise UserError(f"none of the {len(rows)} videos of {split} can be read any more.")
    # Cross-entropy, whatever the training loss was (label smoothing): comparable between runs.
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(output.predictions), torch.from_numpy(output.label_ids))
    computed = compute_all(output.predictions, output.label_ids)
    return Evaluation(
        split=split,
        rows=rows,
        scores=torch.from_numpy(output.predictions).float().softmax(-1).numpy(),
        labels=output.label_ids,
        metrics={
            **{f"{split}_{name}": computed[name] for name in ("top1", "top5", "macro_f1")},
            f"{split}_loss": float(loss),
        },
        computed=computed,
        clips_per_second=output.metrics[f"{split}_samples_per_second"],
    )


def write_report(
    trainer: VideoTrainer,
    splits: Splits,
    settings: Settings,
    evaluation: Evaluation | None,
    hub_model_id: str | None,
    seconds: float,
) -> None:
    """Writes metrics, predictions, pictures and the card into the run's directory."""
    output_dir, names = Path(trainer.args.output_dir), splits.labels
    facts = collect_facts(trainer, splits, settings, evaluation, hub_model_id, seconds)
    plot_curves(trainer.state.log_history, output_dir / "curves.png")
    write_metrics(output_dir / "metrics.json", facts, evaluation, trainer.unreadable)
    if evaluation is not None:
        write_predictions(output_dir / "predictions.csv", evaluation, names)
        matrix = np.array(evaluation.computed["confusion_matrix"])
        plot_confusion(matrix, names, f"{evaluation.split} videos", output_dir / "confusion_matrix.png")
        strips = pick_strips(evaluation, names, trainer.train_dataset.maker)
        plot_predictions(strips, output_dir / "predictions.png")
    (output_dir / "README.md").write_text(render_card(facts), encoding="utf-8")


def write_predictions(path: Path, evaluation: Evaluation, names: list[str]) -> None:
    """CSV: video_id, label, prediction, score, and one column of scores per class."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["video_id", "label", "prediction", "score", *names])
        for video_id, scores, label in zip(
            evaluation.rows["video_id"], evaluation.scores, evaluation.labels, strict=True
        ):
            if label == IGNORED:
                writer.writerow([video_id, "", "unreadable", *[""] * (1 + len(names))])
                continue
            best = int(scores.argmax())
            cells = [f"{score:.6f}" for score in (scores[best], *scores)]
            writer.writerow([video_id, names[label], names[best], *cells])


def write_metrics(path: Path, facts: CardFacts, evaluation: Evaluation | None, unreadable: dict[str, str]) -> None:
    values: dict[str, Any] = {"protocol": facts.protocol, "labels": facts.labels, **facts.metrics}
    if unreadable:
        values["unreadable"] = describe_unreadable(unreadable)
    if evaluation is not None:
        values |= {key: evaluation.computed[key] for key in ("per_class", "confusion_matrix")}
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def pick_strips(
    evaluation: Evaluation, names: list[str], maker: ClipMaker, at_most: int = 8
) -> list[tuple[np.ndarray, str, str, float]]:
    """The most confident error first, then the first video of each class, as (frames, label, prediction, score)."""
    best, confidence, labels = evaluation.scores.argmax(1), evaluation.scores.max(1), evaluation.labels
    wrong = [int(i) for i in np.argsort(-confidence) if best[i] != labels[i] and labels[i] != IGNORED][:1]
    firsts = [int(np.argmax(labels == label)) for label in np.unique(labels) if label != IGNORED]
    strips = []
    rows = Rows(evaluation.rows)
    for i in list(dict.fromkeys([*wrong, *firsts]))[:at_most]:
        clip = read_clip(rows[i], maker.evaluated(rows[i]))
        strips.append((_thumbnails(clip), names[labels[i]], names[best[i]], float(confidence[i])))
    return strips


def _thumbnails(clip: torch.Tensor, height: int = 96) -> np.ndarray:
    """uint8 `(num_frames, height, width, 3)`, at most 16 frames."""
    clip = clip[:: max(1, len(clip) // 16)][:16]
    width = max(1, round(clip.shape[-1] * height / clip.shape[-2]))
    small = torch.nn.functional.interpolate(clip.float(), (height, width), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def print_next_commands(settings: Settings, splits: Splits, metrics: dict[str, float], seconds: float) -> None:
    """The run's result, and the three commands a user types next."""
    output_dir, data_args = settings.training.output_dir, settings.data
    shown = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
    print(f"\n{shown or 'no split to evaluate on'}  ({seconds:.0f} s)")
    print(
        f"{output_dir}: checkpoint, README.md (model card), curves.png, confusion_matrix.png, predictions.png, predictions.csv, metrics.json\n"
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
