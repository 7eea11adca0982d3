"""The three stores of the same videos, made by data_prep as a user makes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets

from data_prep.schema import STORES
from finetune.clips.clip import Rows


class Prepared:
    """Rows of each store, by the name of the source's file; `bytes` of each."""

    def __init__(self, folder: Path, videos: list[Path]):
        listed = folder / "videos.csv"
        lines = [f"videos/{path.name},{'even' if at % 2 == 0 else 'odd'}\n" for at, path in enumerate(videos)]
        listed.write_text("path,label\n" + "".join(lines))
        self.splits = {store: _split(folder / store, listed, store) for store in STORES}
        self.rows = {store: Rows(split) for store, split in self.splits.items()}
        self.bytes = {"files": sum(path.stat().st_size for path in videos)}
        for store in ("clips", "frames"):
            rows = self.rows[store]
            self.bytes[store] = sum(_stored_bytes(rows[at]) for at in range(len(rows)))
        self._places = {
            store: {Path(name).stem: at for at, name in enumerate(split["video_id"])}
            for store, split in self.splits.items()
        }

    def row(self, store: str, path: str) -> dict[str, Any]:
        return self.rows[store][self._places[store][Path(path).stem]]


def _split(out: Path, listed: Path, store: str) -> datasets.Dataset:
    if not out.exists():
        subprocess.run(
            [sys.executable, "-m", "data_prep", str(listed), str(out), "--store", store, "--splits", "1", "0", "0", "--no_duplicates"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    return datasets.load_from_disk(str(out))["train"]


def _stored_bytes(row: dict[str, Any]) -> int:
    if row.get("frames") is not None:
        return sum(len(row["frames"][i]) for i in range(row["num_frames"]))
    return len(row["video"]["bytes"])
