"""The run's pictures as PNG: learning curves, confusion matrix, test videos with their predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from data_prep.letters import drawable

# Metrics of validation that are drawn, where there are such.
_CURVES = {
    "eval_top1": "top-1", "eval_top5": "top-5", "eval_mean_average_precision": "mean average precision",
    "eval_macro_f1": "macro-F1",
}  # fmt: skip
_MAX_NAMED = 40  # classes whose names fit beside a confusion matrix


def plot_curves(log_history: list[dict[str, Any]], path: Path) -> None:
    """Training and validation loss, and, where it was measured, validation accuracy, over epochs."""
    curves = {
        name: [(entry["epoch"], entry[key]) for entry in log_history if key in entry] for key, name in _CURVES.items()
    }
    panels = 2 if any(curves.values()) else 1
    figure = Figure(figsize=(4.5 * panels, 3.6), layout="constrained")
    losses, *others = figure.subplots(1, panels, squeeze=False)[0]
    for key, name in (("loss", "training"), ("eval_loss", "validation")):
        points = [(entry["epoch"], entry[key]) for entry in log_history if key in entry]
        if points:
            losses.plot(*zip(*points), label=name, marker="." if len(points) < 30 else None)
    losses.set(xlabel="epoch", ylabel="loss", title="Loss", ylim=(0, None))
    for accuracy in others:
        for name, points in curves.items():
            if points:
                accuracy.plot(*zip(*points), label=name, marker="." if len(points) < 30 else None)
        accuracy.set(xlabel="epoch", ylabel="share of validation videos", title="Validation", ylim=(0, 1.02))
    for axes in (losses, *others):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(path, dpi=120)


def plot_confusion(matrix: np.ndarray, labels: list[str], title: str, path: Path) -> None:
    """Counts `(num_labels, num_labels)`, rows true, coloured by their share of the row."""
    num_labels = len(labels)
    side = min(16.0, 3.2 + 0.42 * num_labels)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if num_labels <= _MAX_NAMED:
        names = [drawable(label) for label in labels]
        axes.set_xticks(range(num_labels), names, rotation=45, ha="right")
        axes.set_yticks(range(num_labels), names)
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    figure.savefig(path, dpi=120)


def plot_label_scores(per_class: dict[str, list[Any]], labels: list[str], title: str, path: Path) -> None:
    """Average precision and F1 of each label, the best on top; of more than 40 labels the 20 best and the 20 worst."""
    areas = [area if area is not None else 0.0 for area in per_class["average_precision"]]
    order = sorted(range(len(labels)), key=lambda i: -areas[i])
    half = _MAX_NAMED // 2
    order = order if len(order) <= _MAX_NAMED else [*order[:half], *order[-half:]]
    figure = Figure(figsize=(7, 1.2 + 0.3 * len(order)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(order))
    axes.barh(places - 0.2, [areas[i] for i in order], 0.38, label="average precision")
    axes.barh(places + 0.2, [per_class["f1"][i] for i in order], 0.38, label="F1 at its threshold")
    names = [f"{drawable(labels[i])} ({per_class['support'][i]})" for i in order]
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.02), title=title)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def plot_predictions(strips: list[tuple[np.ndarray, str, str, float]], path: Path) -> None:
    """One row per video: (frames uint8 `(num_frames, height, width, 3)`, true label, predicted label, score)."""
    figure = Figure(figsize=(11, 1.05 * len(strips)), layout="constrained")
    rows = figure.subplots(len(strips), 2, squeeze=False, width_ratios=(8, 2.6))
    for (pictures, caption), (frames, label, predicted, score) in zip(rows, strips):
        pictures.imshow(side_by_side(frames))
        right = label == predicted
        text = f"{'✓' if right else '✗'} {drawable(predicted, 26)}  {score:.0%}"
        text += "" if right else f"\n    true: {drawable(label, 26)}"
        caption.text(0, 0.5, text, va="center", fontsize=9, color="#1a7f37" if right else "#b00020")
        for axes in (pictures, caption):
            axes.axis("off")
    figure.savefig(path, dpi=90)


def side_by_side(frames: np.ndarray) -> np.ndarray:
    """One picture of frames uint8 `(num_frames, height, width, 3)`, in their order, with white between them."""
    gap = ((0, 0), (0, 2), (0, 0))
    return np.concatenate([np.pad(frame, gap, constant_values=255) for frame in frames], axis=1)
