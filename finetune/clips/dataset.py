"""Dataset directory, video folder or Hub id -> checked splits."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Video

from data_prep.errors import UserError
from data_prep.format_version import check_format
from data_prep.lock import one_after_the_other
from data_prep.schema import REQUIRED_COLUMNS, SPLITS, STORE_COLUMN
from data_prep.sigterm import Interrupted, run_to_end
from data_prep.store import SUMMARY, is_url, open_dataset, read_json
from finetune.clips.row_checks import check_labels, check_rows, has_labels
from finetune.clips.stream import ParquetRows, parquet_rows


@dataclass(frozen=True)
class Splits:
    """`train` and the splits to evaluate on, with one list of labels in the order of their ids.

    `summary` is what data_prep wrote about the dataset; empty for datasets from elsewhere. `unlabelled` is a
    test split whose labels are hidden, in place of `test`: to be predicted, not measured.
    """

    name: str
    labels: list[str]
    train: Dataset | ParquetRows
    validation: Dataset | None
    test: Dataset | None
    summary: dict[str, Any]
    unlabelled: Dataset | None = None

    @property
    def is_multi_label(self) -> bool:
        """Whether videos have several labels each, in the column `labels`."""
        return "labels" in self.train.column_names


def load_splits(dataset_name: str, need_validation: bool, test_fold: int | None = None) -> Splits:
    """Opens and checks a dataset. Raises `UserError` saying what is missing and what to do.

    `test_fold` chooses the fold to test on, of a dataset with folds; the next one validates, the others train.
    """
    loaded, summary = _open(dataset_name)
    loaded = _fold_splits(dataset_name, loaded, test_fold)
    return _checked_splits(dataset_name, loaded, summary, need_validation)


def load_split(dataset_name: str, split: str, test_fold: int | None = None) -> Dataset:
    """The videos of one split, of the dataset's `all`, or of one fold; all with labels, or none. Raises `UserError`."""
    loaded, _ = _open(dataset_name)
    if split != "all":
        loaded = _fold_splits(dataset_name, loaded, test_fold)
        if split not in loaded:
            raise UserError(f"{dataset_name} has no split {split!r}, but {', '.join(loaded)}: choose with --split.")
        loaded = DatasetDict({split: loaded[split]})
    rows = datasets.concatenate_datasets(list(loaded.values()))
    are_labelled = has_labels(rows)
    for name, part in loaded.items():
        check_rows(part, dataset_name, name)
        if are_labelled:
            check_labels(part, dataset_name, name)
    return rows


def count_folds(dataset_name: str) -> int:
    """Raises `UserError` where the dataset has splits in place of folds."""
    loaded, _ = _open(dataset_name)
    if "fold" not in loaded[next(iter(loaded))].column_names:
        raise UserError(f"{dataset_name} has splits, not folds. Prepare it with `data_prep ... --folds 5`.")
    check_labels(loaded["train"], dataset_name, "train")  # each fold is trained on
    return _num_folds(loaded["train"])


def _open(dataset_name: str) -> tuple[DatasetDict, dict[str, Any]]:
    """The dataset, its columns checked, and what data_prep wrote about it."""
    path = Path(dataset_name)
    if path.is_dir() and (path / "dataset_dict.json").is_file():
        loaded, summary = _open_directory(path)
    elif path.exists():
        loaded, summary = _open_directory(prepare_folder(path))
    elif is_url(dataset_name):
        loaded, summary = _open_url(dataset_name)
    elif dataset_name.count("/") == 1 and not dataset_name.startswith((".", "/", "~")):
        loaded, summary = _open_hub(dataset_name), {}
    else:
        raise UserError(f"--dataset_name {dataset_name}: no such directory. Give a directory written by data_prep, a folder of videos, or a Hub dataset id.")  # fmt: skip
    for split, rows in loaded.items():
        check_columns(rows, dataset_name, split)
    return loaded, summary


def stream_splits(dataset_name: str, need_validation: bool) -> Splits:
    """Likewise, with train left where it is, to be streamed; validation and test are loaded. Raises `UserError`."""
    base, summary = dataset_name, {}
    check_cache()
    if is_url(dataset_name):
        summary = read_json(f"{dataset_name}/{SUMMARY}")
        check_format(dataset_name, summary)
    elif not Path(dataset_name).is_dir():
        base = f"hf://datasets/{dataset_name}"
    try:
        found = {split: rows for split in SPLITS if (rows := parquet_rows(base, split)) is not None}
        others = {split: rows.urls for split, rows in found.items() if split != "train"}
        loaded: dict[str, Any] = dict(datasets.load_dataset("parquet", data_files=others)) if others else {}
    except Exception as error:  # of every kind: no such id, no network, no right, a file that is none
        raise UserError(f"--streaming: {dataset_name} does not open ({type(error).__name__}: {str(error).splitlines()[0]}).") from error  # fmt: skip
    if "train" not in found:
        raise UserError(f"--streaming: {dataset_name} holds no files train-*.parquet, as data_prep writes them to URLs and to the Hub. Leave --streaming out.")  # fmt: skip
    loaded = {"train": found["train"], **loaded}
    for split, rows in loaded.items():
        check_columns(rows, dataset_name, split)
    return _checked_splits(dataset_name, loaded, summary, need_validation)


def prepare_folder(videos: Path) -> Path:
    """Runs data_prep on a plain folder or list; the result is cached, and data_prep knows whether it is up to date."""
    name = hashlib.sha256(str(videos.resolve()).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "video_folders" / name
    check_cache()
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"  # of this machine's processes; the others come when it is done
    if is_first or not (cache / SUMMARY).is_file():
        with one_after_the_other(cache.with_name(f"{name}.prepared")):  # the cache itself is data_prep's to lock
            print(
                f"{videos} is not a prepared dataset: running python -m data_prep {videos} {cache} --overwrite",
                flush=True,
            )
            run_data_prep([str(videos), str(cache), "--overwrite"])
    return cache


def check_cache() -> None:
    """Raise `UserError` where the library datasets cannot write its cache, which it needs for all but prepared directories."""
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise UserError(f"{cache}, where datasets are cached, cannot be written ({error.strerror}): set HF_DATASETS_CACHE to a folder that can be written, or give a directory that `python -m data_prep` wrote.") from error  # fmt: skip


def run_data_prep(arguments: list[str]) -> None:
    """`python -m data_prep` in a process of its own, as a user runs it: its workers stay free of torch."""
    code = run_to_end([sys.executable, "-m", "data_prep", *arguments])  # which keeps what it has scanned
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        raise Interrupted("data_prep was stopped by SIGTERM. The run is not finished: the same command goes on.")
    if code != 0:
        raise UserError(f"data_prep ended with code {code}: see its message above.")


def _open_directory(path: Path) -> tuple[DatasetDict, dict[str, Any]]:
    summary = path / SUMMARY
    facts = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {}
    return open_dataset(path), facts


def _open_url(url: str) -> tuple[DatasetDict, dict[str, Any]]:
    """Parquet files that data_prep wrote at an fsspec URL."""
    check_cache()
    try:
        with fsspec.open(f"{url}/{SUMMARY}", "r", encoding="utf-8") as file:
            facts = json.load(file)
        check_format(url, facts)
        files = {split: f"{url}/data/{split}-*.parquet" for split in facts["files"]}
        return datasets.load_dataset("parquet", data_files=files), facts
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"--dataset_name {url} does not open as a dataset of data_prep ({type(error).__name__}: {error}).") from error  # fmt: skip


def _fold_splits(name: str, loaded: DatasetDict, test_fold: int | None) -> DatasetDict:
    if "fold" not in loaded[next(iter(loaded))].column_names:
        if test_fold is not None:
            raise UserError(f"--test_fold: {name} has splits, not folds. Prepare it with `data_prep ... --folds 5`.")
        return loaded
    rows = loaded["train"]
    num_folds, folds = _num_folds(rows), np.array(rows["fold"])
    if test_fold is None or not 0 <= test_fold < num_folds:
        raise UserError(
            f"{name} has folds 0 to {num_folds - 1} in place of splits: say which to test on, as --test_fold 0."
        )
    validation_fold = (test_fold + 1) % num_folds
    split_of = np.where(folds == test_fold, "test", np.where(folds == validation_fold, "validation", "train"))
    splits = {split: rows.select(np.flatnonzero(split_of == split)) for split in SPLITS}
    return DatasetDict({split: part for split, part in splits.items() if len(part)})


def _num_folds(rows: Dataset) -> int:
    folds = list(rows["fold"])
    if None in folds or min(folds) < 0:
        raise UserError("the column fold holds null or a negative number, expected folds from 0: run data_prep with --folds again.")  # fmt: skip
    return int(max(folds)) + 1


def _open_hub(name: str) -> DatasetDict:
    check_cache()
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:  # the client raises of many kinds: no such id, no network, no right, no usable file
        raise UserError(f"--dataset_name {name}: neither a directory here nor a Hub dataset that opens ({type(error).__name__}: {str(error).splitlines()[0]}).") from error  # fmt: skip
    # Without this, reading a cell would ask for torchcodec.
    if "video" in loaded[next(iter(loaded))].column_names:
        loaded = loaded.cast_column("video", Video(decode=False))
    return loaded


def check_columns(rows: Dataset | ParquetRows, name: str, split: str) -> None:
    """Raises `UserError` naming the first column of data_prep's schema that `rows` lacks or has in another type."""
    several = "labels" in rows.column_names
    missing = [
        column for column in ("labels" if several else "label", *REQUIRED_COLUMNS) if column not in rows.column_names
    ]
    if not missing and not any(column in rows.column_names for column in STORE_COLUMN.values()):
        missing = [" or ".join(STORE_COLUMN.values())]
    if missing:
        raise UserError(f"{name}, split {split}: column {missing[0]} is missing (there are {', '.join(rows.column_names)}). Run `python -m data_prep VIDEOS DATASET` on the videos.")  # fmt: skip
    if several and not isinstance(getattr(rows.features["labels"], "feature", None), ClassLabel):
        raise UserError(f"{name}, split {split}: column labels is {rows.features['labels']}, expected a List(ClassLabel). Run `python -m data_prep VIDEOS DATASET`.")  # fmt: skip
    if not several and not isinstance(rows.features["label"], ClassLabel):
        raise UserError(f"{name}, split {split}: column label is {rows.features['label']}, expected a ClassLabel. Use dataset.class_encode_column('label').")  # fmt: skip
    if len(rows) == 0:
        raise UserError(f"{name}, split {split} holds no videos.")


def _checked_splits(name: str, loaded: dict[str, Any], summary: dict[str, Any], need_validation: bool) -> Splits:
    if "train" not in loaded:
        raise UserError(f"{name} has splits {', '.join(loaded)} but no train split: training needs one.")
    if need_validation and "validation" not in loaded:
        raise UserError(
            f"{name} has splits {', '.join(loaded)} but no validation split, which tells the best checkpoint. "
            "Prepare it again with `--validation_from_train 0.1`, or train without validation: --eval_strategy no."
        )
    labels = _label_names(loaded["train"])
    for split, rows in loaded.items():
        if _label_names(rows) != labels:
            raise UserError(f"{name}: the labels of {split} are not those of train in the same order. Run data_prep on all splits together.")  # fmt: skip
    if len(labels) < 2:
        raise UserError(f"{name} has the one class {labels}: a classifier needs two or more.")
    unlabelled = None
    for split, rows in loaded.items():
        if isinstance(rows, ParquetRows):
            continue  # checked row by row, as they come
        check_rows(rows, name, split)
        if split == "test" and not has_labels(rows):
            unlabelled = rows
        else:
            check_labels(rows, name, split)
    test = loaded.get("test") if unlabelled is None else None
    return Splits(name, labels, loaded["train"], loaded.get("validation"), test, summary, unlabelled)


def _label_names(rows: Dataset | ParquetRows) -> list[str]:
    features = rows.features
    return (features["labels"].feature if "labels" in features else features["label"]).names
