"""data_prep.shards: what was scanned is read back whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conftest import blobs

from data_prep.labeled import LabeledVideo
from data_prep.parquet import Rows
from data_prep.scan import Storing, video_key
from data_prep.shards import Job, finished, scan_chunk


def test_a_shard_that_is_damaged_anywhere_is_thrown_away(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    """In its facts, fingerprints, pictures or its own structure: what is read is what was written."""
    video = LabeledVideo(write_video(tmp_path / "a.mp4", blobs("a", 5)), "a.mp4", ("run",))
    shards = tmp_path / "shards"
    scan_chunk([Job(video, *video_key(video))], lambda position: None, str(shards), Storing("frames", short_side=16))
    (shard,) = shards.iterdir()
    whole, before = shard.read_bytes(), _read(shards)
    assert len(before) == 1
    thrown_away = 0
    for start in range(0, len(whole), 31):
        shard.write_bytes(whole[:start] + bytes(255 - byte for byte in whole[start : start + 9]) + whole[start + 9 :])
        after = _read(shards)
        assert after in ([], before), f"damaged at byte {start}"
        thrown_away += not after
    assert thrown_away > 10
    shard.write_bytes(whole[: len(whole) // 2])
    assert _read(shards) == []


def test_what_is_no_shard_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "folder.parquet" / "note.txt").write_text("")
    (tmp_path / "text.parquet").write_text("path,label")
    (tmp_path / "empty.parquet").write_bytes(b"")
    assert _read(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def _read(folder: Path) -> list[object]:
    rows = Rows(["fingerprint", "frames"])
    read = [(scanned, rows.read(place)) for scanned, place in finished(str(folder))]
    rows.close()
    return read
