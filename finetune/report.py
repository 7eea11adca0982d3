"""After training: the final evaluation, and every file a reader of the run opens."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.arguments import Settings
from finetune.batch import ClipTransform
from finetune.card import CardFacts, collect_facts, render_card
from finetune.clip import Clips, read_clip, uniform_indices
from finetune.dataset import Splits
from finetune.figures import plot_confusion, plot_curves, plot_predictions
from finetune.metrics import compute_all
from finetune.trainer import VideoTrainer


def write_report(
    trainer: VideoTrainer, splits: Splits, settings: Settings, hub_model_id: str | None, seconds: float
) -> dict[str, Any]:
    """Evaluates on test (on validation where there is none) and writes metrics, predictions, pictures and the card.

    Returns {split_top1, split_top5, split_macro_f1, split_loss}; without either split, nothing is evaluated.
    """
    split = "test" if splits.test is not None else "validation"
    rows = splits.test if splits.test is not None else splits.validation
    output_dir, is_main = Path(trainer.args.output_dir), trainer.is_world_process_zero()
    metrics, computed, scores, labels = {}, None, None, None
    if rows is not None:
        transform = ClipTransform(trainer.processing_class)
        clips = Clips(rows, trainer.model.config.num_frames, transform, training=False)
        output = trainer.predict(clips, metric_key_prefix=split)
        wanted = ("top1", "top5", "macro_f1", "loss")
        metrics = {f"{split}_{name}": float(output.metrics[f"{split}_{name}"]) for name in wanted}
        labels = output.label_ids
        scores = torch.from_numpy(output.predictions).float().softmax(-1).numpy()
        computed = compute_all(output.predictions, labels)
    if not is_main:
        return metrics
    plot_curves(trainer.state.log_history, output_dir / "curves.png")
    if rows is not None:
        write_predictions(output_dir / "predictions.csv", rows["video_id"], scores, labels, splits.labels)
        plot_confusion(np.array(computed["confusion_matrix"]), splits.labels, f"{split} videos", output_dir / "confusion_matrix.png")
        plot_predictions(pick_strips(rows, scores, labels, splits.labels, clips.num_frames), output_dir / "predictions.png")
    facts = collect_facts(trainer, splits, settings, hub_model_id, split, metrics, computed, seconds)
    write_metrics(output_dir / "metrics.json", facts, computed)
    (output_dir / "README.md").write_text(render_card(facts), encoding="utf-8")
    return metrics


def write_predictions(path: Path, video_ids: list[str], scores: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    """CSV: video_id, label, prediction, score, and one column of scores per class."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["video_id", "label", "prediction", "score", *names])
        for video_id, row, label in zip(video_ids, scores, labels):
            best = int(row.argmax())
            writer.writerow([video_id, names[label], names[best], f"{row[best]:.6f}", *(f"{score:.6f}" for score in row)])


def write_metrics(path: Path, facts: CardFacts, computed: dict[str, Any] | None) -> None:
    values = {"protocol": facts.protocol, "labels": facts.labels, **facts.metrics}
    if computed is not None:
        values |= {"per_class": computed["per_class"], "confusion_matrix": computed["confusion_matrix"]}
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def pick_strips(
    rows: Any, scores: np.ndarray, labels: np.ndarray, names: list[str], num_frames: int, at_most: int = 8
) -> list[tuple[np.ndarray, str, str, float]]:
    """The most confident error first, then the first video of each class, as (frames, label, prediction, score)."""
    best = scores.argmax(1)
    confidence = scores.max(1)
    wrong = [i for i in np.argsort(-confidence) if best[i] != labels[i]][:1]
    firsts = [int(np.argmax(labels == label)) for label in np.unique(labels)]
    strips = []
    for i in list(dict.fromkeys([*map(int, wrong), *firsts]))[:at_most]:
        row = rows[i]
        clip = read_clip(row, uniform_indices(row["num_frames"], num_frames))
        strips.append((_thumbnails(clip), names[labels[i]], names[best[i]], float(confidence[i])))
    return strips


def _thumbnails(clip: torch.Tensor, height: int = 96) -> np.ndarray:
    """uint8 `(num_frames, height, width, 3)`, at most 16 frames."""
    clip = clip[:: max(1, len(clip) // 16)][:16]
    width = max(1, round(clip.shape[-1] * height / clip.shape[-2]))
    small = torch.nn.functional.interpolate(clip.float(), (height, width), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def print_next_commands(settings: Settings, splits: Splits, metrics: dict[str, Any], seconds: float) -> None:
    """The run's result, and the three commands a user types next."""
    output_dir, data_args = settings.training.output_dir, settings.data
    shown = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
    print(f"\n{shown or 'no split to evaluate on'}  ({seconds:.0f} s)")
    print(f"{output_dir}: checkpoint, README.md (model card), curves.png, confusion_matrix.png, predictions.png, predictions.csv, metrics.json\n")
    rows = splits.test if splits.test is not None else splits.train
    video = rows[0].get("video", {}).get("path") or "VIDEO.mp4"
    if data_args.demo_videos_per_class:
        video = f"{data_args.dataset_name}_videos/{rows[0]['video_id']}"
    launch = "accelerate launch --config_file accelerate_config.yaml finetune/run.py"
    print("next:")
    print(f"  python -m finetune.predict {output_dir} {video}")
    print(f"  {launch} --dataset_name MY_VIDEOS --model_name_or_path facebook/timesformer-base-finetuned-k400 --output_dir runs/mine")
    print(f"  python -m finetune.hub push {output_dir} ME/NAME")
