"""Parquet files at paths and fsspec URLs: written whole or not at all, read by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

_GROUP_BYTES, _GROUP_ROWS = 64 << 20, 1000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a scanned video's row lies: file and row number."""

    path: str
    row: int


class _Waiting:
    """Rows on their way into a Parquet file, in memory until they are `_GROUP_ROWS` or `_GROUP_BYTES`."""

    def __init__(self, file: Any, schema: pa.Schema):
        # Pictures are compressed already.
        self.writer = pq.ParquetWriter(file, schema, compression="none", use_dictionary=False, write_page_checksum=True)
        self.schema = schema
        self.rows: list[dict[str, Any]] = []
        self.num_bytes = 0

    def write(self, row: dict[str, Any], num_bytes: int) -> None:
        self.rows.append(row)
        self.num_bytes += num_bytes
        if len(self.rows) == _GROUP_ROWS or self.num_bytes > _GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            self.writer.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
            self.rows.clear()
            self.num_bytes = 0

    def close(self) -> None:
        self.flush()
        self.writer.close()


@contextmanager
def parquet_file(path: str, schema: pa.Schema) -> Iterator[Callable[[dict[str, Any], int], None]]:
    """A function that takes rows (and their size in bytes) for a Parquet file at a path or fsspec URL.

    The file appears when the block ends well.
    """
    files, path = fsspec.url_to_fs(path)
    # An object store shows a file when it is closed; a disk would show it half-written.
    local = "file" in files.protocol
    part = f"{path}.part" if local else path
    files.makedirs(path.rpartition("/")[0], exist_ok=True)
    file = files.open(part, "wb")
    try:
        waiting = _Waiting(file, schema)
        yield waiting.write
        waiting.close()
    except BaseException as error:
        with suppress(OSError):  # of the same full disk
            file.close() if local else file.discard()
        if local:
            files.rm(part)
        if isinstance(error, OSError):
            error.filename = error.filename or path  # Arrow does not say where the disk is full
        raise
    file.close()
    if local:
        files.mv(part, path)


class Rows:
    """Reads single columns of rows at their places. Keeps the last group of rows: neighbours lie in one group."""

    def __init__(self, columns: list[str]):
        self.columns = columns
        self._path = ""
        self._parquet: Any = None
        self._first = 0
        self._table: pa.Table | None = None

    def read(self, place: Place) -> dict[str, Any]:
        """The row's columns as Python values."""
        if place.path != self._path:
            self.close()
            self._path = place.path
            self._parquet = _opened(place.path) if place.path.endswith(".parquet") else _split_of(place.path)
        if not isinstance(self._parquet, pq.ParquetFile):
            return {name: self._parquet[place.row][name] for name in self.columns}
        if self._table is None or not 0 <= place.row - self._first < len(self._table):
            self._load_group(place.row)
        table: pa.Table = self._table
        row: dict[str, Any] = table.slice(place.row - self._first, 1).to_pylist()[0]
        return row

    def _load_group(self, row: int) -> None:
        self._first = 0
        parquet = self._parquet
        for group in range(parquet.num_row_groups):
            num_rows = parquet.metadata.row_group(group).num_rows
            if row < self._first + num_rows:
                self._table = parquet.read_row_group(group, columns=self.columns)
                return
            self._first += num_rows

    def close(self) -> None:
        if isinstance(self._parquet, pq.ParquetFile):
            self._parquet.close(force=True)
        self._path, self._parquet, self._table = "", None, None


@contextmanager
def open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """The file at a path or fsspec URL, its checksums verified while it is read."""
    parquet = _opened(path)
    try:
        yield parquet
    finally:
        parquet.close(force=True)


def _split_of(path: str) -> Any:
    import datasets  # not at the top: processes that decode do without it

    return datasets.load_from_disk(path)


def _opened(path: str) -> pq.ParquetFile:
    files, inner = fsspec.url_to_fs(path)
    files.invalidate_cache()  # of listings: other processes and machines have written since
    return pq.ParquetFile(files.open(inner, "rb"), page_checksum_verification=True)
