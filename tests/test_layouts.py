"""data_prep.layouts: what people have is read as they mean it, and what is left out is named with its reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_prep.errors import UserError
from data_prep.layouts import find_videos


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def read(source: Path, **options: object) -> dict[str, tuple[str, str | None, str | None]]:
    return {
        video.video_id: (video.labels[0], video.split, video.group) for video in find_videos(source, **options).videos
    }  # type: ignore[arg-type]


def test_class_folders_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "run/a.mp4", "run/anna/day1/a.MP4", "jump/b.webm", "jump/B.MoV")
    assert {key: value[0] for key, value in read(tmp_path).items()} == {
        "run/a.mp4": "run", "run/anna/day1/a.MP4": "run", "jump/b.webm": "jump", "jump/B.MoV": "jump",
    }  # fmt: skip


@pytest.mark.parametrize(
    "names", [("train", "validation", "test"), ("Training", "val", "testing"), ("TRAIN", "valid", "test")]
)
def test_split_folders_and_their_other_names(tmp_path: Path, names: tuple[str, str, str]) -> None:
    touch(tmp_path, *(f"{name}/{label}/1.mp4" for name in names for label in ("run", "jump")))
    splits = {value[1] for value in read(tmp_path).values()}
    assert splits == {"train", "validation", "test"}
    assert {value[0] for value in read(tmp_path).values()} == {"run", "jump"}


def test_a_class_called_train_beside_others_is_a_class(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.mp4", "bus/1.mp4")
    assert read(tmp_path)["train/1.mp4"] == ("train", None, None)


def test_flat_names_split_at_the_last_underscore(tmp_path: Path) -> None:
    touch(tmp_path, "kick_flip_1.mp4", "class1_1.mp4", "class10_1.mp4", "nounderscore.mp4")
    found = find_videos(tmp_path)
    assert {video.labels[0] for video in found.videos} == {"kick_flip", "class1", "class10"}
    assert found.rejected == [("nounderscore.mp4", "expected <class>_<id> as its name, or class folders")]


def test_junk_is_passed_over_and_loose_or_strange_files_are_told(tmp_path: Path) -> None:
    touch(
        tmp_path, "run/1.mp4", "jump/1.mp4", "run/.DS_Store", "run/._1.mp4", ".ipynb_checkpoints/1.mp4",
        "__MACOSX/run/1.mp4", "loose.mp4", "run/notes.txt", "run/1.mp4.part",
    )  # fmt: skip
    (tmp_path / "empty").mkdir()
    found = find_videos(tmp_path)
    assert sorted(video.video_id for video in found.videos) == ["jump/1.mp4", "run/1.mp4"]
    assert found.rejected == [("loose.mp4", "lies beside the class folders, so it has no class")]
    assert found.other_files == {".txt": 1, ".part": 1}
    assert found.notes == ["folder 'empty' holds no videos: it is not a class"]


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "store/run/1.mp4", "store/jump/1.mp4")
    root = tmp_path / "videos"
    root.mkdir()
    for name in ("run", "jump"):
        os.symlink(tmp_path / "store" / name, root / name)
    os.symlink(root, root / "run" / "loop")
    assert sorted(read(root)) == ["jump/1.mp4", "run/1.mp4"]


def test_group_by_takes_the_first_group_of_the_match(tmp_path: Path) -> None:
    touch(tmp_path, "run/v_g01_c01.avi", "run/v_g01_c02.avi", "jump/v_g02_c01.avi")
    assert {key: value[2] for key, value in read(tmp_path, group_by=r"_(g\d+)_").items()} == {
        "run/v_g01_c01.avi": "g01", "run/v_g01_c02.avi": "g01", "jump/v_g02_c01.avi": "g02",
    }  # fmt: skip
    with pytest.raises(UserError, match="does not match 'jump/v_g02_c01.avi'"):
        read(tmp_path, group_by=r"g01")
    with pytest.raises(UserError, match="not a regular expression"):
        read(tmp_path, group_by="(")


@pytest.mark.parametrize(
    "text",
    [
        "path,label\nv/1.mp4,run\nv/2.mp4,jump\n",
        "\ufeffPath,Label\r\nv/1.mp4,run\r\nv/2.mp4,jump\r\n",
        "label;path\nrun;v/1.mp4\njump;v/2.mp4\n",
        "path\tlabel\tfps\nv/1.mp4\trun\t3\nv/2.mp4\tjump\t3\n",
        'path,label\n"v/1.mp4", run \nv\\2.mp4,"jump"\n\n',
    ],
)
def test_csv_dialects(tmp_path: Path, text: str) -> None:
    touch(tmp_path, "v/1.mp4", "v/2.mp4")
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8", newline="")
    assert read(tmp_path / "labels.csv") == {"v/1.mp4": ("run", None, None), "v/2.mp4": ("jump", None, None)}


def test_csv_with_splits_and_groups(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    (tmp_path / "l.csv").write_text("path,label,split,group\n1.mp4,run,train,a\n2.mp4,jump,val,b\n")
    assert read(tmp_path / "l.csv") == {"1.mp4": ("run", "train", "a"), "2.mp4": ("jump", "validation", "b")}


def test_every_bad_csv_row_is_named_with_its_line(tmp_path: Path) -> None:
    touch(tmp_path, "in/good.mp4", "in/twice.mp4", "in/both.mp4", "in/notes.txt", "in/split.mp4", "out.mp4")
    (tmp_path / "in" / "folder.mp4").mkdir()
    rows = [
        "good.mp4,run", "missing.mp4,run", ",run", "good.mp4,", "../out.mp4,run", f"{tmp_path}/out.mp4,run",
        "http://127.0.0.1/x.mp4,run", "folder.mp4,run", "notes.txt,run", 'x.mp4,"run', "twice.mp4,run", "twice.mp4,run",
        "both.mp4,run", "both.mp4,jump", "split.mp4,run", "ok\x00.mp4,run",
    ]  # fmt: skip
    source = tmp_path / "in" / "l.csv"
    source.write_text("path,label\n" + "\n".join(rows) + "\n")
    found = find_videos(source)
    assert [video.video_id for video in found.videos] == ["good.mp4", "twice.mp4", "split.mp4"]
    lines = {int(reason.split("line ")[1].split(":")[0].split(",")[0]) for _, reason in found.rejected}
    assert lines == {3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 17}
    assert [reason for path, reason in found.rejected if path == "both.mp4"] == [
        "l.csv line 14: labelled 'run', but labelled 'jump' on line 15. Keep the right one.",
        "l.csv line 15: labelled 'jump', but labelled 'run' on line 14. Keep the right one.",
    ]


def test_absolute_csv_paths_under_the_root_are_taken(tmp_path: Path) -> None:
    touch(tmp_path, "v/1.mp4", "v/2.mp4")
    (tmp_path / "lists").mkdir()
    source = tmp_path / "lists" / "l.csv"
    source.write_text(f"path,label\n{tmp_path}/v/1.mp4,run\nv/2.mp4,jump\n")
    assert sorted(read(source, root=tmp_path)) == ["v/1.mp4", "v/2.mp4"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "none", "does not exist"),
        (lambda root: touch(root, "a.mp4") / "a.mp4", "expected a folder of videos, or a .csv"),
        (lambda root: touch(root, "run/notes.txt"), "no usable videos in .* 1 .txt"),
        (lambda root: touch(root, "l.csv") / "l.csv", "expected columns path,label"),
    ],
)
def test_nothing_usable_says_what_was_seen_and_expected(tmp_path: Path, make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_videos(make(tmp_path))  # type: ignore[operator]


def test_some_rows_with_a_split_and_some_without_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    (tmp_path / "l.csv").write_text("path,label,split\n1.mp4,run,train\n2.mp4,jump,\n")
    with pytest.raises(UserError, match="1 of 2 rows have no split"):
        find_videos(tmp_path / "l.csv")


def test_a_relative_csv_lets_no_path_out_of_its_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "out.mp4", "in/1.mp4", "in/2.mp4")
    monkeypatch.chdir(tmp_path / "in")
    Path("l.csv").write_text(f"path,label\n../out.mp4,run\n1.mp4,run\n{tmp_path}/in/2.mp4,jump\n")
    found = find_videos(Path("l.csv"))
    assert [video.video_id for video in found.videos] == ["1.mp4", "2.mp4"]
    assert "is not under" in found.rejected[0][1]


def test_one_file_under_two_labels_or_splits_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/run/1.mp4", "train/jump/1.mp4", "test/jump/2.mp4")
    os.symlink(tmp_path / "train" / "run", tmp_path / "test" / "run")
    os.symlink(tmp_path / "train" / "jump" / "1.mp4", tmp_path / "train" / "jump" / "again.mp4")
    found = find_videos(tmp_path)
    assert [video.video_id for video in found.videos] == ["test/jump/2.mp4", "train/jump/1.mp4"]
    reasons = dict(found.rejected)
    assert reasons["train/jump/again.mp4"] == "is the same file as train/jump/1.mp4"
    assert "different labels or splits" in reasons["train/run/1.mp4"] and "test/run/1.mp4" in reasons


def test_split_folders_among_others_are_not_taken_for_classes(tmp_path: Path) -> None:
    touch(tmp_path, "train/run/1.mp4", "val/run/1.mp4", "extra/run/1.mp4")
    with pytest.raises(UserError, match="split folders train, val and also extra"):
        find_videos(tmp_path)
