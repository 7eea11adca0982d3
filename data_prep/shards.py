"""Scanned videos on their way to the dataset: Parquet files in a work folder, which an interrupted run goes on from.

A shard holds what the scan of one chunk of videos gave: facts, fingerprints and stored pictures. It is written by the
process that scanned them, under a name made of the videos in it, and appears whole or not at all. So a chunk that is
done twice (its machine was lost) is there once, and a run that begins again does only what is missing.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import fsspec
import pyarrow as pa

from data_prep.labeled import LabeledVideo
from data_prep.measure import VideoInfo
from data_prep.parquet import Place, Rows, open_parquet, parquet_file
from data_prep.scan import Pictures, Scanned, Storing, scan_video
from data_prep.schema import FRAME_TIMES, PACKET_INDEX

CHUNK_SIZE = 16  # videos; what a killed run does again, at most, for each process

_INFO = pa.struct(
    [
        ("num_frames", pa.int32()),
        ("fps", pa.float64()),
        ("duration", pa.float64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("num_bad_packets", pa.int32()),
        ("codec", pa.string()),
        ("first_frame", pa.int32()),
    ]
)
SCANNED_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("video_id", pa.string()),
        ("reason", pa.string()),
        ("source", _INFO),
        ("stored", _INFO),
        ("num_bytes", pa.int64()),
        ("stored_bytes", pa.int64()),
        ("digest", pa.string()),
        ("brightness", pa.float64()),
        ("decode_seconds", pa.float64()),
        ("hdr", pa.bool_()),
    ]
)
_SHARD_SCHEMA = pa.schema(
    [
        *SCANNED_SCHEMA,
        ("fingerprint", pa.binary()),
        ("frames", pa.list_(pa.binary())),
        ("video", pa.large_binary()),
        (PACKET_INDEX, pa.binary()),
        (FRAME_TIMES, pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True, slots=True)
class Job:
    """A video to scan, and its key."""

    video: LabeledVideo
    key: str
    num_bytes: int = 0


def scan_chunk(
    chunk: list[Job], begin: Callable[[int], None], folder: str, storing: Storing
) -> list[tuple[Scanned, Place]]:
    """Scans each video, calling `begin` with its position first, and writes the shard. One video at a time in memory.

    Raises `OSError` where the shard cannot be written.
    """
    done = []
    path = f"{folder}/{_name(chunk)}.parquet"
    with parquet_file(path, _SHARD_SCHEMA) as write:
        for position, job in enumerate(chunk):
            begin(position)
            scanned, pictures = scan_video(job.video, job.key, storing)
            write(_row(scanned, pictures), scanned.stored_bytes)
            done.append((scanned, Place(path, position)))
    return done


def scan_task(
    folder: str, storing: Storing
) -> Callable[[list[Job], Callable[[int], None]], list[tuple[Scanned, Place]]]:
    """`scan_chunk` as a task of chunks alone, which travels to other processes."""
    return functools.partial(scan_chunk, folder=folder, storing=storing)


def _name(chunk: list[Job]) -> str:
    return hashlib.blake2b("".join(job.key for job in chunk).encode(), digest_size=16).hexdigest()


def _row(scanned: Scanned, pictures: Pictures) -> dict[str, Any]:
    row = {field.name: getattr(scanned, field.name) for field in fields(scanned)}
    for name in ("source", "stored"):
        row[name] = asdict(row[name]) if row[name] is not None else None
    # A name that is not UTF-8 may be scanned, to be refused later; Arrow's texts are UTF-8.
    row["video_id"] = scanned.video_id.encode("utf-8", "backslashreplace").decode()
    row["reason"] = scanned.reason.encode("utf-8", "backslashreplace").decode()
    beside = {PACKET_INDEX: pictures.packet_index, FRAME_TIMES: pictures.frame_times}
    return row | {"fingerprint": pictures.fingerprint, "frames": pictures.frames, "video": pictures.video} | beside


def finished(folder: str) -> Iterator[tuple[Scanned, Place]]:
    """What an earlier run scanned into `folder`. A damaged shard is thrown away: its videos are scanned again."""
    files, root = fsspec.url_to_fs(folder)
    files.invalidate_cache()
    for path in sorted(files.glob(f"{root}/*.parquet")):
        url = files.unstrip_protocol(path)
        try:
            _read_through(url)
            rows = list(read_scanned(url))
        except Exception:  # of every kind: a damaged footer may claim any columns, names or lengths
            files.rm(path, recursive=True)
            continue
        for row, scanned in enumerate(rows):
            yield scanned, Place(url, row)


def _read_through(path: str) -> None:
    """Raises where a page is damaged, also one of pictures, which are needed much later."""
    with open_parquet(path) as parquet:
        for group in range(parquet.num_row_groups):
            parquet.read_row_group(group)


def read_scanned(path: str) -> Iterator[Scanned]:
    """The facts of a Parquet file that holds the columns of `SCANNED_SCHEMA` among others."""
    with open_parquet(path) as parquet:
        for batch in parquet.iter_batches(1024, columns=SCANNED_SCHEMA.names):
            for row in batch.to_pylist():
                yield Scanned(
                    **row | {name: VideoInfo(**row[name]) if row[name] else None for name in ("source", "stored")}
                )


_PLACED_SCHEMA = pa.schema([*SCANNED_SCHEMA, ("fingerprint", pa.binary()), ("file", pa.string()), ("row", pa.int64())])


def write_scanned(path: str, scanned: Iterable[tuple[Scanned, bytes, Place | None]]) -> None:
    """Facts and fingerprints, and where in the finished dataset the pictures lie: for the next run over these videos."""
    with parquet_file(path, _PLACED_SCHEMA) as write:
        for one, fingerprint, place in scanned:
            row = _row(one, Pictures(fingerprint)) | {"file": place and place.path, "row": place and place.row}
            write({name: row[name] for name in _PLACED_SCHEMA.names}, len(fingerprint) + 500)


def read_placed(path: str, dataset: str) -> Iterator[tuple[Scanned, Place, Place | None]]:
    """What `write_scanned` wrote: facts, where the fingerprint lies, where the pictures do. Nothing, without a file."""
    files, inner = fsspec.url_to_fs(path)
    if not files.exists(inner):
        return
    with open_parquet(path) as parquet:
        places = parquet.read(columns=["file", "row"]).to_pylist()
    for row, (one, place) in enumerate(zip(read_scanned(path), places)):
        yield one, Place(path, row), Place(f"{dataset}/{place['file']}", place["row"]) if place["file"] else None


@contextmanager
def mapped_fingerprints(places: Sequence[Place | None], folder: str) -> Iterator[Callable[[int], bytes]]:
    """A function that gives the fingerprint of the video at a position in `places`, in any order, from a mapped file."""
    path = f"{folder}/fingerprints.arrow"
    schema = pa.schema([("fingerprint", pa.binary())])
    rows, size = Rows(schema.names), 1000
    with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for start in range(0, len(places), size):
            part = [rows.read(place)["fingerprint"] if place else b"" for place in places[start : start + size]]
            writer.write_table(pa.table([pa.array(part, pa.binary())], schema=schema), max_chunksize=size)
    rows.close()
    with pa.memory_map(path) as source:
        reader = pa.ipc.open_file(source)
        columns = [reader.get_batch(number).column(0) for number in range(reader.num_record_batches)]
        yield lambda index: columns[index // size][index % size].as_py()
