"""Rows of predictions as text: a table, JSON, JSON lines or CSV; to the terminal, or to a file that can be gone on with."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.errors import UserError, printable
from finetune.output import replacing

Row = dict[str, Any]

_CSV_COLUMNS = ("video", "label", "score", "error", "true_label")
APPENDED = ("jsonl", "csv")  # a line, or some, for each video: written as it is done


def as_table(row: Row) -> str:
    known = f"  (is {printable(row['true_label'])})" if "true_label" in row else ""
    lines = [printable(row["video"]) + known]
    lines += [f"  {one['score']:7.2%}  {printable(one['label'])}" for one in row.get("predictions", ())]
    lines += [f"  error: {row['error']}"] if "error" in row else []
    return "\n".join(lines) + "\n"


def as_jsonl(row: Row) -> str:
    return json.dumps(row) + "\n"


def as_csv(row: Row) -> str:
    """A line for each label, or one with the error."""
    known = row.get("true_label", "")
    lines = [(row["video"], one["label"], f"{one['score']:.6f}", "", known) for one in row.get("predictions", ())]
    return _csv_lines(lines or [(row["video"], "", "", row["error"], known)])


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
        with output.open("a", encoding="utf-8", errors="backslashreplace", newline="") as file:
            if file.tell() == 0:
                file.write(_head(form))
            yield lambda row: _append(file, _LINES[form](row))
    else:
        yield rows.append
        write_text(output, json.dumps(rows, indent=2) + "\n" if form == "json" else "".join(map(as_table, rows)))


def write_text(output: Path | None, text: str) -> None:
    """To the terminal where there is no file."""
    if output is None:
        sys.stdout.write(text)
        return
    with replacing(output) as file:
        file.write(text)


def _head(form: str) -> str:
    return _csv_lines([_CSV_COLUMNS]) if form == "csv" else ""


def _append(file: Any, text: str) -> None:
    file.write(text)
    file.flush()


def plain_text(label: str) -> str:
    """At most 28 characters, none of which matplotlib reads as a formula or as a word about a legend."""
    text = printable(label).replace("$", r"\$").lstrip("_") or "?"
    return text if len(text) <= 28 else text[:27] + "…"


def done_before(output: Path | None, form: str, labels: list[str], top_k: int) -> set[str]:
    """The videos that an appended file holds already; a last one that is not whole is cut off, to be done again.

    Raises `UserError` where the file is not of this format, of another model or another `top_k`.
    """
    if output is None or form not in APPENDED or not output.exists() or output.stat().st_size == 0:
        return set()
    text = output.read_bytes().decode("utf-8", "replace")
    rows = _read_jsonl(output, text) if form == "jsonl" else _read_csv(output, text)
    per_video = min(top_k, len(labels))
    if form == "csv" and rows and "predictions" in rows[-1] and len(rows[-1]["predictions"]) < per_video:
        rows.pop()
    for row in rows:
        found = row.get("predictions", [])
        if found and (len(found) != per_video or any(one["label"] not in labels for one in found)):
            raise UserError(f"--output {output} was written with other labels or another --top_k: choose another file, or delete it.")  # fmt: skip
    whole = _head(form) + "".join(map(_LINES[form], rows))
    if whole != text:
        write_text(output, whole)
    return {row["video"] for row in rows}


def _read_jsonl(output: Path, text: str) -> list[Row]:
    whole = text[: text.rfind("\n") + 1]
    try:
        rows = [json.loads(line) for line in whole.splitlines()]
    except ValueError:
        rows = [None]
    if not all(isinstance(row, dict) and "video" in row and ("predictions" in row or "error" in row) for row in rows):
        raise _not_ours(output)
    return rows


def _read_csv(output: Path, text: str) -> list[Row]:
    whole = text[: text.rfind("\n") + 1]
    lines = list(csv.reader(io.StringIO(whole, newline="")))
    if not lines or tuple(lines[0]) != _CSV_COLUMNS or any(len(line) != len(_CSV_COLUMNS) for line in lines):
        raise _not_ours(output)
    rows: dict[str, Row] = {}
    for video, label, score, error, known in lines[1:]:
        row = rows.setdefault(video, {"video": video} | ({"true_label": known} if known else {}))
        if error:
            row["error"] = error
        else:
            row.setdefault("predictions", []).append({"label": label, "score": float(score)})
    return list(rows.values())


def _not_ours(output: Path) -> UserError:
    return UserError(f"--output {output} exists and was not written by this command: choose another file.")
