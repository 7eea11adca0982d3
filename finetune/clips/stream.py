"""Clips streamed from Parquet files, local, at a URL or on the Hub: nothing is copied to disk first.

The order is a function of (seed, pass) alone: row groups are dealt at random to all loader processes of all nodes, each
of which mixes the rows of a few groups at a time. So a run goes on where it was, without reading what it has seen: it
counts rows, by the files' footers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from torch.utils.data import IterableDataset, get_worker_info

from data_prep.errors import UserError
from finetune.clips.clip import ClipMaker, generator_for, row_of
from finetune.clips.row_checks import check_row, check_streamed_labels, num_labels_of
from finetune.clips.watch import outlive_one_sigterm

_MIXED_GROUPS = 4  # of a loader process at a time; data_prep's are of 64 MB


@dataclass(frozen=True)
class Piece:
    """A row group, or some of its rows: `file` and `group` by number, rows `first` up to `end` of the group."""

    file: int
    group: int
    first: int
    end: int


class ParquetRows:
    """The rows of a split that lie in Parquet files at fsspec URLs; their columns one by one, as a Dataset gives them."""

    def __init__(self, urls: list[str]):
        self.urls = urls
        self.groups: list[Piece] = []
        for number, url in enumerate(urls):
            with fsspec.open(url, "rb") as file:
                parquet = pq.ParquetFile(file)
                if number == 0:
                    self.features = Features.from_arrow_schema(parquet.schema_arrow)
                for group in range(parquet.num_row_groups):
                    num_rows = parquet.metadata.row_group(group).num_rows
                    self.groups.append(Piece(number, group, 0, num_rows))
        self.column_names = list(self.features)

    def __len__(self) -> int:
        return sum(piece.end for piece in self.groups)

    def __getitem__(self, column: str) -> list[Any]:
        values: list[Any] = []
        for url in self.urls:
            with fsspec.open(url, "rb") as file:
                values += pq.ParquetFile(file).read(columns=[column]).column(column).to_pylist()
        return values

    def pieces(self, at_least: int) -> list[Piece]:
        """The row groups; cut into parts where there are fewer than `at_least`, though each reads its whole group."""
        parts = -(-at_least // len(self.groups))
        if parts == 1:
            return self.groups
        cut = []
        for piece in self.groups:
            bounds = np.linspace(0, piece.end, parts + 1).round().astype(int).tolist()
            cut += [Piece(piece.file, piece.group, a, b) for a, b in zip(bounds, bounds[1:]) if b > a]
        return cut

    def read(self, piece: Piece) -> pa.Table:
        """The rows of a piece."""
        with fsspec.open(self.urls[piece.file], "rb") as file:
            table = pq.ParquetFile(file).read_row_group(piece.group)
        return table.slice(piece.first, piece.end - piece.first)


def parquet_rows(base: str, split: str) -> ParquetRows | None:
    """The files `<split>-*.parquet` below a directory, URL or `hf://datasets/me/name`; None where there are none."""
    files, path = fsspec.url_to_fs(base)
    names = sorted({*files.glob(f"{path}/{split}-*.parquet"), *files.glob(f"{path}/**/{split}-*.parquet")})
    return ParquetRows([files.unstrip_protocol(name) for name in names]) if names else None


@dataclass(frozen=True)
class Place:
    """Which of all the readers this is, and how far all have come: `first_batch` batches were taken of every rank."""

    rank: int = 0
    world_size: int = 1
    batch_size: int = 1
    first_batch: int = 0


class StreamedClips(IterableDataset):
    """Training clips without an end, pass after pass, for a DataLoader of `place.batch_size` that keeps their order."""

    def __init__(self, rows: ParquetRows, maker: ClipMaker, seed: int, place: Place):
        self.rows, self.maker, self.seed, self.place = rows, maker, seed, place

    def set_epoch(self, epoch: int) -> None:
        """Nothing: passes are counted here."""

    def labels(self) -> list[int]:
        """Of every video, in the order of the files."""
        return check_streamed_labels(self.rows["label"], num_labels_of(self.rows.features))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        outlive_one_sigterm()
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        # A loader begins with its process 0. The batch that is due was another's, whose part this one takes over.
        part = (worker + self.place.first_batch) % workers
        batches_before = max(0, -(-(self.place.first_batch - part) // workers))
        skip = batches_before * self.place.batch_size
        reader, readers = self.place.rank * workers + part, self.place.world_size * workers
        pieces = self.rows.pieces(readers)
        if len(pieces) < readers:
            raise UserError(f"--streaming: {len(self.rows)} videos for {readers} processes that read: use fewer.")
        number = 0
        while True:
            order = np.random.default_rng([self.seed, number]).permutation(len(pieces))
            own = [pieces[i] for i in order[reader::readers]]
            num_rows = sum(piece.end - piece.first for piece in own)
            if skip >= num_rows:
                skip -= num_rows
            else:
                yield from self._pass(own, number, skip)
                skip = 0
            number += 1

    def _pass(self, pieces: list[Piece], number: int, skip: int) -> Iterator[dict[str, Any]]:
        """The clips of one pass over `pieces`, without the first `skip`."""
        num_labels = num_labels_of(self.rows.features)
        for first in range(0, len(pieces), _MIXED_GROUPS):
            mixed = pieces[first : first + _MIXED_GROUPS]
            places = [(piece, row) for piece in mixed for row in range(piece.end - piece.first)]
            if skip >= len(places):
                skip -= len(places)
                continue
            tables = {piece: self.rows.read(piece) for piece in mixed}
            head = mixed[0]
            random = np.random.default_rng([self.seed, number, head.file, head.group, head.first])
            for at in random.permutation(len(places))[skip:]:
                piece, row = places[at]
                generator = generator_for(self.seed, number, piece.file, piece.group, piece.first + row)
                cells = row_of(tables[piece], row)
                check_row(cells, num_labels)
                yield self.maker.training(cells, generator)
            skip = 0


def steps_per_pass(num_rows: int, batch_size: int, world_size: int, accumulation: int) -> int:
    """Optimizer steps that take about as many clips as there are videos.

    steps_per_pass(1000, 8, 4, 1) == 31
    """
    return max(1, num_rows // (batch_size * world_size * accumulation))
