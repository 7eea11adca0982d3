"""finetune.clips.row_checks: labels that are hidden or none, and numbers that cannot be, are met where rows arrive."""

from __future__ import annotations

import csv
import json
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.table import InMemoryTable
from test_clip import processor
from test_run import FAST

from data_prep.errors import UserError, exit_cleanly
from data_prep.limits import VideoError
from data_prep.video import read_frames
from finetune.clips.batch import ClipTransform
from finetune.clips.clip import ClipMaker
from finetune.clips.dataset import count_folds, load_split, load_splits
from finetune.clips.row_checks import has_labels
from finetune.clips.stream import Place, StreamedClips, parquet_rows
from finetune.compare import main as compare
from finetune.evaluate import main as evaluate
from finetune.run import main as run

OPTIONS = ("--dataloader_num_workers", "0", "--device", "cpu")
QUICK = [*FAST, "--max_steps", "1"]
pytestmark = pytest.mark.usefixtures("without_pictures")


def with_column(rows: datasets.Dataset, name: str, cells: list, kind: Any) -> datasets.Dataset:
    """The rows with these cells as they are: `datasets` itself would not write some of them."""
    features = datasets.Features({**rows.features, name: kind})
    table = rows.with_format("arrow")[:]
    column = pa.array(cells, features.arrow_schema.field(name).type)
    at = table.column_names.index(name) if name in table.column_names else None
    table = table.append_column(name, column) if at is None else table.set_column(at, name, column)
    return datasets.Dataset(InMemoryTable(table.cast(features.arrow_schema)), datasets.DatasetInfo(features=features))


def changed(dataset: Path, target: Path, split: str, column: str, value: Any, rows: range, kind: Any = None) -> str:
    """A copy with another value in some rows of a split; `kind` is of a new column, empty elsewhere."""
    loaded = datasets.load_from_disk(str(dataset))
    for key, part in loaded.items():
        cells = list(part[column]) if column in part.column_names else [None] * len(part)
        if key == split:
            cells = [value if number in rows else cell for number, cell in enumerate(cells)]
        loaded[key] = with_column(part, column, cells, kind or part.features[column])
    loaded.save_to_disk(str(target))
    return str(target)


def relabelled(dataset: Path, target: Path, split: str, label: int | None, count: int = 99) -> str:
    return changed(dataset, target, split, "label", label, range(count))


def several(dataset: Path, target: Path, split: str, labels: list[int | None] | None, count: int = 99) -> str:
    """Several labels a video; the first `count` of a split have these."""
    kind = datasets.List(datasets.ClassLabel(names=["left", "right", "bar"]))
    loaded = datasets.load_from_disk(str(dataset))
    for key, rows in loaded.items():
        cells = [[number, 2] for number in rows["label"]]
        if key == split:
            cells = [labels] * min(count, len(cells)) + cells[count:]
        loaded[key] = with_column(rows.remove_columns("label"), "labels", cells, kind)
    loaded.save_to_disk(str(target))
    return str(target)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize(
    ("label", "message"), [(-1, r"no label \(None or -1\)"), (None, "no label"), (2, "its label is 2, expected 0 to 1")]
)
def test_a_label_that_is_none_is_refused_on_arrival(
    bars_dataset: Path, tmp_path: Path, split: str, label: int | None, message: str
) -> None:
    dataset = relabelled(bars_dataset, tmp_path / "data", split, label, count=3)
    first = datasets.load_from_disk(dataset)[split]["video_id"][0]
    for load in (lambda: load_splits(dataset, need_validation=True), lambda: load_split(dataset, split)):
        with pytest.raises(UserError, match=f"split {split}: 3 of .* the first, '{first}': .*{message}"):
            load()
    loaded = datasets.load_from_disk(dataset)  # the advice leads on
    for key, rows in loaded.items():
        loaded[key] = rows.filter(lambda label: label in range(2), input_columns="label", keep_in_memory=True)
    loaded.save_to_disk(str(tmp_path / "mended"))
    assert load_splits(str(tmp_path / "mended"), need_validation=True).test is not None


@pytest.mark.parametrize("labels", [None, [-1], [0, -1], [3], [None]])
def test_so_is_one_of_several_labels(bars_dataset: Path, tmp_path: Path, labels: list[int | None] | None) -> None:
    for split in ("train", "test"):
        dataset = several(bars_dataset, tmp_path / split, split, labels, count=2)
        with pytest.raises(UserError, match=f"split {split}: 2 of .* label"):
            load_splits(dataset, need_validation=True)
    free = load_splits(several(bars_dataset, tmp_path / "free", "test", [], count=2), need_validation=True)
    assert free.test is not None, "a video may have none of several labels"


@pytest.mark.parametrize("labels", [None, [-1], []])
def test_several_labels_that_are_all_hidden_are_predicted(
    bars_dataset: Path, tmp_path: Path, labels: list[int] | None
) -> None:
    splits = load_splits(several(bars_dataset, tmp_path / "data", "test", labels), need_validation=True)
    assert splits.test is None and splits.unlabelled is not None and not has_labels(splits.unlabelled)


@pytest.mark.parametrize("label", [-1, pytest.param(None, marks=pytest.mark.slow)])
def test_a_test_split_without_labels_is_predicted_and_not_measured(
    bars_dataset: Path, tmp_path: Path, label: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, out = relabelled(bars_dataset, tmp_path / "data", "test", label), tmp_path / "out"
    metrics = run(["--dataset_name", dataset, "--output_dir", str(out), *QUICK])
    assert metrics and all(name.startswith("validation_") for name in metrics)
    assert "8 test videos have no labels" in capsys.readouterr().out
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    test = datasets.load_from_disk(dataset)["test"]["video_id"]
    assert [row["video_id"] for row in rows] == list(test) and {row["label"] for row in rows} == {""}
    assert {row["prediction"] for row in rows} <= {"left", "right"}
    card = (out / "README.md").read_text()
    assert "The test split has no labels: its 8 videos were predicted, not measured." in card
    assert "24 train, 8 validation, 8 test (without labels) videos" in card and "| class | train | validation |" in card
    document = json.loads((out / "metrics.json").read_text())
    assert document["num_unlabelled"] == 8 and document["split"] == "validation"

    with pytest.raises(UserError, match="split test has no labels.*--predictions FILE.csv"):
        evaluate([str(out), dataset, *OPTIONS])
    table = tmp_path / "p.csv"
    assert evaluate([str(out), dataset, "--predictions", str(table), *OPTIONS]) == {}
    assert "8 videos without labels: predicted, not measured" in capsys.readouterr().out
    with table.open(newline="") as file:
        same = [(row["video_id"], row["label"], row["prediction"]) for row in csv.DictReader(file)]
    assert same == [(row["video_id"], row["label"], row["prediction"]) for row in rows]
    with pytest.raises(UserError, match="has no labels, so nobody knows which answers are right"):
        compare([str(table), str(out / "predictions.csv")])
    with pytest.raises(UserError, match="split test: 8 of 8 videos cannot be used"):
        evaluate([str(out), dataset, "--split", "all", *OPTIONS])


@pytest.mark.slow
def test_without_validation_too_nothing_is_measured(bars_dataset: Path, tmp_path: Path) -> None:
    dataset, out = Path(relabelled(bars_dataset, tmp_path / "data", "test", -1)), tmp_path / "out"
    loaded = datasets.load_from_disk(str(dataset))
    del loaded["validation"]
    loaded.save_to_disk(str(tmp_path / "two"))
    assert (
        run(["--dataset_name", str(tmp_path / "two"), "--output_dir", str(out), "--eval_strategy", "no", *QUICK]) == {}
    )
    assert "a test split without labels, whose 8 videos were predicted, and no validation split" in (out / "README.md").read_text()  # fmt: skip
    assert len((out / "predictions.csv").read_text().splitlines()) == 9


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("first_frame", -20, "its first_frame is -20, expected at least 0"),
        ("num_frames", -10, "its num_frames is -10, expected at least 1"),
        ("num_frames", 0, "its num_frames is 0"),
        ("num_frames", None, "its num_frames is None"),
        ("fps", float("nan"), "its fps is nan"),
        ("fps", -25.0, "its fps is -25.0"),
        ("start", float("inf"), "its start is inf"),
        ("end", float("nan"), "its end is nan"),
        ("end", -2.0, "its end is -2.0"),
    ],
)
def test_numbers_that_cannot_be_are_refused_on_arrival(
    bars_dataset: Path, tmp_path: Path, column: str, value: float | None, message: str
) -> None:
    kinds = {"first_frame": "int32", "start": "float32", "end": "float32"}
    kind = datasets.Value(kinds[column]) if column in kinds else None
    dataset = changed(bars_dataset, tmp_path / "data", "test", column, value, range(1, 2), kind)
    second = datasets.load_from_disk(dataset)["test"]["video_id"][1]
    for load in (lambda: load_splits(dataset, need_validation=True), lambda: load_split(dataset, "test")):
        with pytest.raises(UserError, match=f"split test: 1 of 8 .* the first, '{second}': {message}"):
            load()


@pytest.mark.parametrize("fold", [None, -1])
def test_a_video_in_no_fold_is_refused(bars_dataset: Path, tmp_path: Path, fold: int | None) -> None:
    rows = datasets.load_from_disk(str(bars_dataset))["train"]
    folds = [fold, *(number % 3 for number in range(len(rows) - 1))]
    kept = datasets.DatasetDict({"train": with_column(rows, "fold", folds, datasets.Value("int32"))})
    kept.save_to_disk(str(tmp_path / "folds"))
    for load in (lambda: count_folds(str(tmp_path / "folds")), lambda: load_split(str(tmp_path / "folds"), "test", 0)):
        with pytest.raises(UserError, match="fold holds null or a negative number"):
            load()


def test_folds_are_all_trained_on_so_all_need_labels(bars_dataset: Path, tmp_path: Path) -> None:
    rows = datasets.load_from_disk(str(bars_dataset))["train"]
    labels = [-1 if number % 3 == 0 else label for number, label in enumerate(rows["label"])]
    rows = with_column(rows, "label", labels, rows.features["label"])
    rows = with_column(rows, "fold", [number % 3 for number in range(len(rows))], datasets.Value("int32"))
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "folds"))
    with pytest.raises(UserError, match="split train: 8 of 24 .* no label"):
        count_folds(str(tmp_path / "folds"))


def test_a_frame_before_the_first_is_no_frame(ramp_video: Path) -> None:
    assert read_frames(str(ramp_video), range(12)).shape[0] == 12  # from here on by its index
    with pytest.raises(VideoError, match="has no frame -3"):
        read_frames(str(ramp_video), [-3, 1])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", -1, r"it has no label \(None or -1\)"),
        ("label", None, "it has no label"),
        ("label", 7, "its label is 7"),
        ("num_frames", -4, "its num_frames is -4"),
    ],
)
def test_a_streamed_row_is_checked_as_it_comes(
    bars_dataset: Path, tmp_path: Path, column: str, value: int | None, message: str
) -> None:
    dataset = changed(bars_dataset, tmp_path / "data", "train", column, value, range(5, 6))
    for split, rows in datasets.load_from_disk(dataset).items():
        pq.write_table(rows.with_format("arrow")[:], tmp_path / f"{split}-0.parquet")
    rows = parquet_rows(str(tmp_path), "train")
    stream = StreamedClips(rows, ClipMaker(4, ClipTransform(processor())), 0, Place())
    with pytest.raises(UserError, match=f"--streaming: video .*{message}"):
        list(islice(stream, 24))
    if column == "label":
        with pytest.raises(UserError, match=f"--streaming: row 5: {message}"):
            stream.labels()


@pytest.mark.slow
def test_a_stream_with_a_hidden_label_ends_in_one_line_from_a_worker_too(
    bars_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = relabelled(bars_dataset, tmp_path / "data", "train", -1, count=1)
    for split, rows in datasets.load_from_disk(dataset).items():
        pq.write_table(rows.with_format("arrow")[:], tmp_path / f"{split}-0.parquet")
    command = [
        "--dataset_name",
        str(tmp_path),
        "--streaming",
        *FAST,
        "--max_steps",
        "7",
        "--dataloader_num_workers",
        "1",
    ]
    assert exit_cleanly(run)([*command, "--output_dir", str(tmp_path / "out")]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "it has no label" in said[0]
