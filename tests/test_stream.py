"""finetune.clips.stream: every video once a pass, on any number of nodes and processes, and a run that goes on where it was."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from test_clip import processor
from test_run import FAST

from data_prep.errors import UserError
from data_prep.prepare import main as data_prep
from finetune.clips.batch import ClipTransform, collate
from finetune.clips.clip import ClipMaker
from finetune.clips.stream import ParquetRows, Place, StreamedClips, parquet_rows
from finetune.run import main
from finetune.training.trainer import VideoTrainer


@pytest.fixture(scope="module")
def shards(bars: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """`bars` as data_prep writes it to a URL; its training files written again as two, in row groups of three."""
    url = f"file://{tmp_path_factory.mktemp('stream')}/bars"
    data_prep(
        [str(bars), url, "--store", "clips", "--splits", "0.6", "0.2", "0.2", "--num_proc", "1", "--no_duplicates"]
    )
    folder = Path(url.removeprefix("file://")) / "data"
    (whole,) = folder.glob("train-*.parquet")
    table = pq.read_table(whole)
    whole.unlink()
    for number, (first, count) in enumerate(((0, 13), (13, len(table)))):
        pq.write_table(table.slice(first, count), folder / f"train-{number:05d}-of-00002.parquet", row_group_size=3)
    return url


def clips(shards: str, seed: int = 0, **place: int) -> StreamedClips:
    rows = parquet_rows(shards, "train")
    assert rows is not None
    return StreamedClips(rows, ClipMaker(4, ClipTransform(processor())), seed, Place(**place))


def batches(stream: StreamedClips, count: int, workers: int = 0) -> list[torch.Tensor]:
    loader = torch.utils.data.DataLoader(stream, stream.place.batch_size, num_workers=workers, collate_fn=collate)
    return [batch["pixel_values"] for _, batch in zip(range(count), loader)]


def test_a_split_is_what_was_prepared(shards: str) -> None:
    rows = parquet_rows(shards, "train")
    assert rows is not None and len(rows) == len(rows["label"]) and len(rows.urls) == 2
    assert isinstance(rows.features["label"], datasets.ClassLabel)
    assert parquet_rows(shards, "holdout") is None
    labels = rows["label"]
    assert labels != sorted(labels), "written mixed, since a stream mixes only neighbours"


@pytest.mark.parametrize(("nodes", "workers"), [(1, 1), (2, 1), (2, 3), (4, 5)])
def test_every_video_comes_once_a_pass(shards: str, nodes: int, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there are more processes than row groups; the order differs from pass to pass."""
    passes: list[list[tuple]] = [[], []]
    for rank in range(nodes):
        for worker in range(workers):
            info = type("Info", (), {"id": worker, "num_workers": workers})
            monkeypatch.setattr("finetune.clips.stream.get_worker_info", lambda info=info: info)
            stream = clips(shards, rank=rank, world_size=nodes)
            pieces = stream.rows.pieces(nodes * workers)
            monkeypatch.setattr(stream, "_pass", lambda own, number, skip: [(piece, number) for piece in own])
            for piece, number in iter(stream):
                if number == 2:
                    break
                passes[number].append((piece.file, piece.group, piece.first, piece.end))
    for one in passes:
        assert Counter(one) == Counter((piece.file, piece.group, piece.first, piece.end) for piece in pieces)
    assert passes[0] != passes[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_where_it_was(shards: str, workers: int) -> None:
    """Over the end of a pass, and with a number of batches that is no multiple of the processes."""
    whole = batches(clips(shards, batch_size=2), 17, workers)
    for done in (1, 6, 13):
        rest = batches(clips(shards, batch_size=2, first_batch=done), 17 - done, workers)
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[done:], strict=True))
    other = batches(clips(shards, seed=1, batch_size=2), 1)
    assert not torch.equal(other[0], whole[0])


def test_more_processes_than_videos_is_said(shards: str) -> None:
    with pytest.raises(UserError, match="use fewer"):
        next(iter(clips(shards, world_size=1000)))


def test_training_from_a_stream_and_resuming_it(shards: str, tmp_path: Path) -> None:
    """One pass and a half in steps; evaluated on a loaded split; resumed weights equal those of no interruption."""
    options = ["--dataset_name", shards, "--streaming", *FAST, "--num_train_epochs", "1.5", "--save_total_limit", "9"]
    metrics = main([*options, "--output_dir", str(tmp_path / "whole")])
    assert set(metrics) >= {"test_top1"}
    steps = sorted(int(path.name.rpartition("-")[2]) for path in (tmp_path / "whole").glob("checkpoint-*"))
    assert steps[0] == len(ParquetRows(parquet_rows(shards, "train").urls)) // 4 and len(steps) >= 2
    (tmp_path / "whole").rename(tmp_path / "cut")
    last = tmp_path / "cut" / f"checkpoint-{steps[-1]}"
    whole = load_file(last / "model.safetensors")
    (last / "trainer_state.json").unlink()
    main([*options, "--output_dir", str(tmp_path / "cut"), "--resume_from_checkpoint"])
    again = load_file(last / "model.safetensors")
    assert json.loads((last / "trainer_state.json").read_text())["global_step"] == steps[-1]
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_milestones_are_passes(shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass counts as the steps it is cut into: 22 videos in batches of 4 as 5."""
    rates = []
    whole = VideoTrainer.training_step

    def training_step(self: VideoTrainer, *args: object, **kwargs: object) -> torch.Tensor:
        rates.append(self.optimizer.param_groups[0]["lr"])
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(VideoTrainer, "training_step", training_step)
    options = ["--dataset_name", shards, "--streaming", *FAST, "--num_train_epochs", "2", "--eval_strategy", "no"]
    main([*options, "--lr_milestones", "1", "--output_dir", str(tmp_path / "out")])
    steps = len(ParquetRows(parquet_rows(shards, "train").urls)) // 4
    assert rates == pytest.approx([1e-3] * steps + [1e-4] * steps)


def test_what_cannot_be_streamed_is_said(bars_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no files train-"):
        main(["--dataset_name", str(bars_dataset), "--streaming", "--output_dir", str(tmp_path / "o"), *FAST])
