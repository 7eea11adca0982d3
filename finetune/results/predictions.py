"""predictions.csv: what a model said of each video, for a spreadsheet and for `finetune.compare`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep.errors import UserError
from finetune.results.output import csv_cell, from_csv_cell, replacing

if TYPE_CHECKING:
    from finetune.results.evaluation import Evaluation

# Then one column of scores per class. Classes may have these names too: columns are found by their place.
COLUMNS = ("video_id", "view", "group", "label", "prediction", "score")
MEAN = "mean"  # `view` of the row of the whole video
UNREADABLE = "unreadable"  # `prediction`, with no scores
_SEPARATOR = "|"  # of several labels of a video


def write_predictions(path: Path, evaluation: Evaluation, view_names: list[str]) -> None:
    """CSV with a row for each video (`view` is `mean`), and after it, where there are several, one for each of its views.

    `label` is empty where the split has no labels.
    """
    with replacing(path) as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *map(csv_cell, evaluation.names)])
        names, rows = np.array(evaluation.names, dtype=object), evaluation.rows
        groups = rows["group"] if "group" in rows.column_names else [None] * len(rows)
        for index, (video_id, group, truth) in enumerate(zip(rows["video_id"], groups, evaluation.truth())):
            label = _SEPARATOR.join(names[truth])
            for view, answer, *scores in _answers(evaluation, index, names, view_names):
                cells = map(csv_cell, (video_id, view, group or "", label, answer))
                writer.writerow([*cells, *scores])


def _answers(evaluation: Evaluation, index: int, names: np.ndarray, view_names: list[str]) -> Iterator[list[str]]:
    """(view, prediction, score, scores...) of one video."""
    if not evaluation.readable[index]:
        yield [MEAN, UNREADABLE, *[""] * (1 + len(names))]
        return
    views = list(zip(view_names, evaluation.view_scores[index])) if len(view_names) > 1 else []
    for view, scores in [(MEAN, evaluation.scores[index]), *views]:
        given = evaluation.answers(scores[None])[0]
        yield [view, _SEPARATOR.join(names[given]), *(f"{score:.6g}" for score in (scores.max(), *scores))]


@dataclass(frozen=True)
class Predictions:
    """The videos of a predictions.csv, their views left out. `scores` `(videos, classes)`, NaN where unreadable."""

    video_ids: list[str]
    groups: list[str]
    labels: list[str]
    predictions: list[str]
    scores: np.ndarray
    names: list[str]

    def right(self) -> np.ndarray:
        """bool `(videos,)`; a video that could not be read is wrong."""
        readable = ~np.isnan(self.scores).any(1)
        return np.array([a == b for a, b in zip(self.labels, self.predictions)]) & readable


def read_predictions(path: Path) -> Predictions:
    """Raises `UserError` for a file that `write_predictions` did not write, naming the line."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if tuple(header[: len(COLUMNS)]) != COLUMNS or len(header) == len(COLUMNS):
                raise UserError(f"{path} does not begin with the columns {', '.join(COLUMNS)} and one per class: give a predictions.csv of a run or of finetune.evaluate.")  # fmt: skip
            rows = [_checked(row, len(header), path, reader.line_num) for row in reader if row]
            rows = [[*map(from_csv_cell, row[: len(COLUMNS)]), *row[len(COLUMNS) :]] for row in rows if row[1] == MEAN]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8: {error}.") from error
    ids = [row[0] for row in rows]
    if not rows or len(set(ids)) < len(ids):
        raise UserError(f"{path} holds {'a video twice' if rows else 'no video'}: expected each once, with the view {MEAN!r}.")  # fmt: skip
    scores = np.array([[float(cell or "nan") for cell in row[len(COLUMNS) :]] for row in rows])
    _, _, groups, labels, predictions, *_ = (list(column) for column in zip(*rows))
    return Predictions(ids, groups, labels, predictions, scores, [*map(from_csv_cell, header[len(COLUMNS) :])])


def _checked(row: list[str], length: int, path: Path, line: int) -> list[str]:
    if len(row) != length:
        raise UserError(f"{path} line {line}: {len(row)} cells, expected {length}.")
    for cell in row[len(COLUMNS) :]:
        try:
            float(cell or "nan")
        except ValueError:
            raise UserError(f"{path} line {line}: {cell!r} is not a score.") from None
    return row
