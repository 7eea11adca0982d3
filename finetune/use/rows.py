"""Rows of predictions as text: a table, JSON, JSON lines or CSV; to the terminal, or to a file that can be gone on with."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.errors import UserError, printable
from data_prep.staying import Staying
from finetune.results.output import csv_cell, from_csv_cell, replacing
from finetune.use.resuming import Settings, begin, check_same, is_begun, not_ours

Row = dict[str, Any]

_CSV_COLUMNS = ("video", "label", "score", "given", "error", "true_label")
_GIVEN = {True: "yes", False: "no", None: ""}
APPENDED = ("jsonl", "csv")  # a line, or some, for each video: written as it is done


def as_table(row: Row) -> str:
    known = f"  (is {printable(row['true_label'])})" if "true_label" in row else ""
    lines = [printable(row["video"]) + known]
    lines += [f"  {one['score']:7.2%}  {named(one)}" for one in row.get("predictions", ())]
    lines += [f"  error: {row['error']}"] if "error" in row else []
    return "\n".join(lines) + "\n"


def named(prediction: dict[str, Any]) -> str:
    """Its label for a terminal; of several labels per video those that are given say so."""
    return printable(prediction["label"]) + (" (given)" if prediction.get("given") else "")


def as_jsonl(row: Row) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def as_csv(row: Row) -> str:
    """A line for each label, or one with the error. `given` is empty where a video has one label."""
    known = row.get("true_label", "")
    lines = [
        (row["video"], one["label"], f"{one['score']:.6f}", _GIVEN[one.get("given")], "", known)
        for one in row.get("predictions", ())
    ]
    lines = lines or [(row["video"], "", "", "", row["error"], known)]
    return _csv_lines([tuple(map(csv_cell, line)) for line in lines])


def _csv_lines(lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


_LINES: dict[str, Callable[[Row], str]] = {"table": as_table, "jsonl": as_jsonl, "csv": as_csv}


@contextmanager
def writer_to(output: Path | None, form: str) -> Iterator[Callable[[Row], None]]:
    """A function that writes one row. To the terminal or an appended file at once; else to the file when all is done."""
    rows: list[Row] = []
    if output is None and form != "json":
        sys.stdout.write(_head(form))
        yield lambda row: print(_LINES[form](row), end="", flush=True)
    elif form in APPENDED and output is not None:
        with output.open("a+", encoding="utf-8", errors="backslashreplace", newline="") as file:
            if file.tell() == 0:
                file.write(_head(form))
            staying = Staying("--output", output)
            yield lambda row: _append(file, _LINES[form](row), staying)
            _check_there(file, staying)
    else:
        yield rows.append
        write_text(
            output,
            json.dumps(rows, indent=2, allow_nan=False) + "\n" if form == "json" else "".join(map(as_table, rows)),
        )


def write_text(output: Path | None, text: str) -> None:
    """To the terminal where there is no file."""
    if output is None:
        sys.stdout.write(text)
        return
    try:
        with replacing(output) as file:
            file.write(text)
    except FileNotFoundError as error:
        saved = _saved_elsewhere(output, text.encode("utf-8", "backslashreplace"))
        raise UserError(f"--output {output}: its folder was deleted while this command worked. What it had to write is in {saved}.") from error  # fmt: skip


def _head(form: str) -> str:
    return _csv_lines([_CSV_COLUMNS]) if form == "csv" else ""


def _append(file: Any, text: str, staying: Staying) -> None:
    file.write(text)
    file.flush()
    _check_there(file, staying)


def _check_there(file: Any, staying: Staying) -> None:
    """Raises `UserError` where the open file has lost its name; its rows are saved under another one."""
    if staying.lost is None:
        return
    output = Path(staying.path)
    file.seek(0)
    saved = _saved_elsewhere(output, file.buffer.read())
    if is_begun(output):
        raise UserError(f"{staying.lost}: its rows are in {saved}. Move it to {output}, and the same command goes on.")
    raise UserError(f"{staying.lost}: its rows are in {saved}. The same command begins anew.")


def _saved_elsewhere(output: Path, data: bytes) -> Path:
    """Writes what has lost its place beside it, or among temporary files where that folder is gone too."""
    folder = output.parent if output.parent.is_dir() else Path(tempfile.gettempdir())
    saved = folder / f"{output.stem}.saved-{os.getpid()}{output.suffix}"
    saved.write_bytes(data)
    return saved


def as_written(path: str) -> str:
    """A path as files of rows hold it: bytes that are not UTF-8 as escapes."""
    return path.encode("utf-8", "backslashreplace").decode()


def done_before(output: Path, form: str, settings: Settings, num_labels: int) -> set[str]:
    """The videos, `as_written`, that a file of one of the `APPENDED` formats holds predictions of.

    What could not be read, and a last video that is not whole, is taken out of it, to be tried again. Raises `UserError`
    where the file is not of this format, or was begun with other settings.
    """
    if not output.exists() or output.stat().st_size == 0:
        begin(output, settings)
        return set()
    check_same(output, settings)
    text = output.read_bytes().decode("utf-8", "replace")
    rows = _read_jsonl(output, text) if form == "jsonl" else _read_csv(output, text)
    if form == "csv" and rows and not _is_whole(rows[-1], min(settings["top_k"], num_labels)):
        rows.pop()
    rows = [row for row in rows if "predictions" in row]
    whole = _head(form) + "".join(map(_LINES[form], rows))
    if whole != text:
        write_text(output, whole)
    return {as_written(row["video"]) for row in rows}


def _is_whole(row: Row, per_video: int) -> bool:
    """Whether the last lines of a CSV file are all that its video has. Of several labels nothing tells."""
    found = row.get("predictions", [])
    return len(found) >= per_video and not any("given" in one for one in found)


def _read_jsonl(output: Path, text: str) -> list[Row]:
    whole = text[: text.rfind("\n") + 1]
    try:
        rows = [json.loads(line) for line in whole.splitlines()]
    except ValueError:
        rows = [None]
    if not all(isinstance(row, dict) and "video" in row and ("predictions" in row or "error" in row) for row in rows):
        raise not_ours(output)
    return rows


def _read_csv(output: Path, text: str) -> list[Row]:
    whole = text[: text.rfind("\n") + 1]
    lines = list(csv.reader(io.StringIO(whole, newline="")))
    if len(lines) > 1 and len(lines[-1]) < len(_CSV_COLUMNS):  # torn within a name that holds a line break
        lines.pop()
    if not lines or tuple(lines[0]) != _CSV_COLUMNS or any(len(line) != len(_CSV_COLUMNS) for line in lines):
        raise not_ours(output)
    rows: dict[str, Row] = {}
    for video, label, score, given, error, known in (map(from_csv_cell, line) for line in lines[1:]):
        row = rows.setdefault(video, {"video": video} | ({"true_label": known} if known else {}))
        if error:
            row["error"] = error
        else:
            marked = {"given": given == "yes"} if given else {}
            row.setdefault("predictions", []).append({"label": label, "score": float(score)} | marked)
    return list(rows.values())
