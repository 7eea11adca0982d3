"""data_prep.layouts.tables and data_prep.layouts.lists: every dialect is read, every line ends as a video or as a named refusal."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from test_folders import CLASSES, counts, notes, splits
from test_layouts import touch

from data_prep.errors import UserError
from data_prep.labeled import Span
from data_prep.layouts import find_videos

ROWS = [(f"videos/{name}_{i}.mp4", name) for name in CLASSES for i in range(6)]
NUMBER = {name: str(index) for name, index in zip(CLASSES, (0, 3, 7, 71))}


def dialect(separator: str = ",", header: str = "path,label", newline: str = "\n", form: str = "{path},{label}") -> str:
    lines = [header] * bool(header) + [form.format(path=p, label=n, number=NUMBER[n]) for p, n in ROWS]
    return "".join(line.replace(",", separator) + newline for line in lines)


DIALECTS = {
    "plain.csv": dialect(),
    "bom_crlf.csv": "\ufeff" + dialect(newline="\r\n"),
    "no_header.csv": dialect(header=""),
    "label_first_no_header.csv": dialect(header="", form="{label},{path}"),
    "semicolon.csv": dialect(";"),
    "tab.tsv": dialect("\t"),
    "extra.csv": dialect(header="id,File Name,fps,Class,notes", form="7,{path},30,{label},"),
    "quoted.csv": dialect(form='"{path}", "{label}"'),
    "backslash.csv": dialect().replace("videos/", "videos\\"),
    "spaces.csv": dialect(header=" Path , LABEL ", form=" {path} , {label} "),
    "other_names.csv": dialect(header="video,category"),
    "bare_names.csv": dialect().replace("videos/", ""),
    "no_extension.csv": dialect().replace(".mp4", ""),
    "no_newline_at_the_end.csv": dialect().rstrip("\n"),
    "old_mac.csv": dialect(newline="\r"),
    "rows.jsonl": "".join(json.dumps({"video": path, "label": name}) + "\n" for path, name in ROWS),
    "rows.json": json.dumps([{"file": path, "class": name} for path, name in ROWS]),
    "mapping.json": json.dumps(dict(ROWS)),
    "spaced.txt": dialect(" ", header=""),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_dialects(tmp_path: Path, name: str) -> None:
    touch(tmp_path, *(path for path, _ in ROWS))
    (tmp_path / name).write_text(DIALECTS[name], encoding="utf-8", newline="")
    for source in (tmp_path / name, tmp_path):
        found = find_videos(source)
        assert counts(found) == dict.fromkeys(CLASSES, 6), found.rejected
        assert not found.rejected and not found.multi_label and splits(found) == {None: 24}
    assert f"read as {found.layout}: {name}" in notes(found)


def test_numbers_with_gaps_stay_as_they_are(tmp_path: Path) -> None:
    touch(tmp_path, *(path for path, _ in ROWS))
    (tmp_path / "l.csv").write_text(dialect(form="{path},{number}"))
    found = find_videos(tmp_path / "l.csv")
    assert counts(found) == {"0": 6, "3": 6, "7": 6, "71": 6} and "labels are numbers (0, 3, 7, 71)" in notes(found)


def test_stray_case_is_merged_with_a_note(tmp_path: Path) -> None:
    touch(tmp_path, *(path for path, _ in ROWS))
    (tmp_path / "l.csv").write_text(dialect().replace(",run\n", ",RUN \n", 2))
    found = find_videos(tmp_path / "l.csv")
    assert counts(found) == dict.fromkeys(CLASSES, 6)
    assert "outer spaces of labels were removed: 'RUN '" in notes(found) and "'RUN' became 'run'" in notes(found)


def test_a_split_column_and_partner_lists(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4")
    (tmp_path / "all.csv").write_text("filename,action,subset,subject\n1.mp4,run,Training,a\n2.mp4,jump,Valid,b\n3.mp4,run,x,b\n")  # fmt: skip
    found = find_videos(tmp_path / "all.csv")
    assert splits(found) == {"train": 1, "validation": 1} and [video.group for video in found.videos] == ["a", "b"]
    assert found.rejected[0][1].startswith("all.csv line 4: split is 'x'")
    (tmp_path / "my_train.csv").write_text("path,label\n1.mp4,run\n2.mp4,jump\n")
    (tmp_path / "my_test.csv").write_text("path,label\n3.mp4,run\n")
    assert splits(find_videos(tmp_path / "my_train.csv")) == {"train": 2, "test": 1}


def test_several_lists_that_fit_are_named_and_class_folders_win(tmp_path: Path) -> None:
    touch(tmp_path, "videos/1.mp4", "videos/2.mp4")
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("path,label\n1.mp4,run\n2.mp4,jump\n")
    with pytest.raises(UserError, match="several lists that fit: a.csv, b.csv. Pass the one you mean"):
        find_videos(tmp_path)
    touch(tmp_path, "run/1.mp4", "jump/2.mp4")
    found = find_videos(tmp_path)
    assert found.layout == "class_folders" and "lists were not read: a.csv, b.csv" in notes(found)


def test_bad_rows_are_each_named_with_their_line(tmp_path: Path) -> None:
    touch(tmp_path, "in/v/1.mp4", "in/v/2.mp4", "in/v/3.mp4", "out.mp4", "in/v/notes.txt")
    bad = {
        "v/none.mp4,run": "no such file", ",run": "path is empty", "v/1.mp4,": "label is empty",
        "../out.mp4,run": "is not under", "v/../../out.mp4,run": "is not under", "/etc/passwd,run": "--path_prefix /etc",
        "http://127.0.0.1/x.mp4,run": "is a URL", "concat:v/1.mp4|v/2.mp4,run": "protocol", "v,run": "is a folder",
        ".,run": "is a folder", '"v/1.mp4,run': "quotes do not match", "v/\x001.mp4,run": "NUL",
        "a" * 5000 + ".mp4,run": "no such file", "x" * 1_100_000 + ",run": "no row of a list", "v/notes.txt,run": "extension",
        "v/1.mp4,run,way": "3 cells", "a/" * 3000 + "x.mp4,run": "",
    }  # fmt: skip
    source = tmp_path / "in" / "l.csv"
    source.write_text("path,label\n" + "\n".join(bad) + "\nv/1.mp4,run\nv/1.mp4,run\nv/2.mp4,run\nv/2.mp4,sit\nv/3.mp4,sit\n")  # fmt: skip
    found = find_videos(source)
    assert [video.video_id for video in found.videos] == ["v/1.mp4", "v/3.mp4"]
    reasons = [reason for _, reason in found.rejected]
    for line, reason in enumerate(bad.values(), start=2):
        assert any(text.startswith(f"l.csv line {line}: ") and reason in text for text in reasons), (line, reason)
    assert len(reasons) == len(bad) + 3
    assert "l.csv line 20: repeats line 19" in reasons
    assert "l.csv line 21: labelled 'run', but labelled 'sit' on line 22. Keep the right one." in reasons
    assert all(len(path) <= 300 for path, _ in found.rejected)


def test_bad_entries_of_json(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    lines = ['{"path": "1.mp4", "label": "run"}', "[" * 99_999, '{"path": ["1.mp4"], "label": "run"}', "7",
             '{"path": "1.mp4", "label": {"a": 1}}', '{"path": "1.mp4"}', "{", '{"path": null, "label": 1}']  # fmt: skip
    (tmp_path / "l.jsonl").write_text("\n".join(lines))
    found = find_videos(tmp_path / "l.jsonl")
    assert len(found.videos) == 1 and [text.split(":")[0] for _, text in found.rejected] == [f"l.jsonl line {i}" for i in range(2, 9)]  # fmt: skip
    (tmp_path / "l.json").write_text('[{"path": "1.mp4", "label": "run"}, 3, {"path": "\\ud800.mp4", "label": 2}]')
    assert [text[:14] for _, text in find_videos(tmp_path / "l.json").rejected] == ["l.json entry 2", "l.json entry 3"]


def test_a_label_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    (tmp_path / "l.jsonl").write_text('{"path": "1.mp4", "label": "\\ud800"}\n{"path": "2.mp4", "label": "run"}\n')
    found = find_videos(tmp_path / "l.jsonl")
    assert len(found.videos) == 1 and "not UTF-8" in found.rejected[0][1]


def test_pyslowfast_lists(tmp_path: Path) -> None:
    for split, number in (("train", 4), ("val", 1), ("test", 1)):
        paths = [f"videos/{name}/{split} {i}.mp4" for name in CLASSES for i in range(number)]
        touch(tmp_path, *paths)
        (tmp_path / f"{split}.csv").write_text("".join(f"{path} {NUMBER[path.split('/')[1]]}\n" for path in paths))
    absolute = (tmp_path / "train.csv").read_text().replace("videos/", "/home/me/data/videos/")
    (tmp_path / "train_abs.csv").write_text(absolute)
    found = find_videos(tmp_path)
    assert found.layout == "pyslowfast" and splits(found) == {"train": 16, "validation": 4, "test": 4}
    assert set(counts(found)) == set(NUMBER.values()) and "not read: train_abs.csv" in notes(found)
    with pytest.raises(UserError, match="--path_prefix /home/me/data/videos"):
        find_videos(tmp_path / "train_abs.csv")
    assert splits(find_videos(tmp_path / "train_abs.csv", path_prefix="/home/me/data/")) == {"train": 16}


def test_mmaction2_lists_with_several_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a 1.mp4", "b.mp4", "c.mp4")
    (tmp_path / "list.txt").write_text("a 1.mp4 3 11\nb.mp4 3\nc.mp4 0 3 0\nb.mp4\n")
    found = find_videos(tmp_path / "list.txt")
    assert found.layout == "mmaction2" and found.multi_label
    assert [video.labels for video in found.videos] == [("11", "3"), ("3",), ("0", "3")]
    assert found.rejected == [("b.mp4", "list.txt line 4: label is empty, expected 'path label'")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pipes.csv", "path,labels\n1.mp4,run| jump\n2.mp4,run\n3.mp4,|\n"),
        ("one_hot.csv", "path,fps,run,jump\n1.mp4,30,1,1\n2.mp4,30,1,0\n4.mp4,25,0,1\n5.mp4,25,0,1\n6.mp4,25,0,1\n3.mp4,30,x,0\n"),
        ("lists.jsonl", '{"path": "1.mp4", "labels": ["run", "jump", "run"]}\n{"path": "2.mp4", "labels": ["run"]}\n{"path": "3.mp4", "labels": [[1]]}'),
        ("cells.csv", 'path,labels\n1.mp4,"[""run"",""jump""]"\n2.mp4,"[""run""]"\n3.mp4,"[""run"""\n'),
    ],
)  # fmt: skip
def test_several_labels(tmp_path: Path, name: str, text: str) -> None:
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4", "4.mp4", "5.mp4", "6.mp4")
    (tmp_path / name).write_text(text)
    found = find_videos(tmp_path / name)
    assert found.multi_label and [video.labels for video in found.videos][:2] == [("jump", "run"), ("run",)]
    assert [path for path, _ in found.rejected] == ["3.mp4"]


def test_spans_of_one_file_are_clips_of_one_group(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    bad = ["a.mp4,5,5,run", "a.mp4,x,5,run", "a.mp4,-1,5,run", "a.mp4,3,,run", "a.mp4,0,inf,run", "a.mp4,nan,1,run"]
    rows = ["a.mp4,0,2.5,run", "a.mp4,2.5,4,jump", "b.mp4,1,2,run"]
    (tmp_path / "segments.csv").write_text("path,start,end,label\n" + "\n".join(rows + bad) + "\n")
    found = find_videos(tmp_path)
    assert [video.video_id for video in found.videos] == ["a.mp4#0-2.5", "a.mp4#2.5-4", "b.mp4#1-2"]
    assert [video.group for video in found.videos] == ["a.mp4", "a.mp4", "b.mp4"]
    assert found.videos[0].span == Span(0, 2.5) and found.videos[0].path == tmp_path / "a.mp4"
    assert [reason.split(":")[0] for _, reason in found.rejected] == [f"segments.csv line {i}" for i in range(5, 11)]


def test_hugging_face_videofolder(tmp_path: Path) -> None:
    touch(tmp_path, *(f"train/{i}.mp4" for i in range(16)), *(f"test/{i}.mp4" for i in range(8)))
    (tmp_path / "train/metadata.csv").write_text("file_name,label\n" + "".join(f"{i}.mp4,{CLASSES[i % 4]}\n" for i in range(16)))  # fmt: skip
    (tmp_path / "test/metadata.jsonl").write_text("".join(json.dumps({"file_name": f"{i}.mp4", "label": CLASSES[i % 4]}) + "\n" for i in range(8)))  # fmt: skip
    found = find_videos(tmp_path)
    assert found.layout == "videofolder" and splits(found) == {"train": 16, "test": 8} and not found.rejected


def test_one_metadata_file_at_the_root(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.mp4", "test/2.mp4")
    (tmp_path / "metadata.csv").write_text("file_name,label\ntrain/1.mp4,run\ntest/2.mp4,jump\n")
    found = find_videos(tmp_path)
    assert found.layout == "videofolder" and splits(found) == {"train": 1, "test": 1}


@pytest.mark.parametrize(
    "text", ["a.mp4,b.mp4\nc.mp4,d.mp4\n", "1,2,3\n4,5,6\n", "", "path,fps\na.mp4,3\n", "path,path,label\n"]
)
def test_a_list_that_does_not_tell_its_columns_is_a_message(tmp_path: Path, text: str) -> None:
    touch(tmp_path, "a.mp4")
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(UserError, match="expected|two columns called"):
        find_videos(tmp_path / "l.csv")


def test_bytes_that_are_no_text_are_a_message(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes("path,label\nä.mp4,x\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8 text"):
        find_videos(tmp_path / "l.csv")


def test_lists_are_read_in_linear_time(tmp_path: Path) -> None:
    touch(tmp_path, *(f"v/{i}.mp4" for i in range(200)))
    rows = "".join(f"v/{i}.mp4,{'run' if i % 2 else 'jump'}\n" for i in range(20_000))
    (tmp_path / "l.csv").write_text("path,label\n" + rows + "v/0.mp4,run\n" * 20_000)
    begin = time.monotonic()
    found = find_videos(tmp_path / "l.csv")
    assert time.monotonic() - begin < 5
    assert Counter(path for path, _ in found.rejected)["v/0.mp4"] == 20_001 and len(found.videos) == 199


def test_a_list_in_a_subfolder_may_lead_back_to_the_videos(tmp_path: Path) -> None:
    touch(tmp_path, "in/videos/1.mp4", "in/videos/2.mp4", "out.mp4")
    (tmp_path / "in" / "annotations").mkdir()
    text = "path,label\n../videos/1.mp4,run\nvideos/2.mp4,jump\n../../out.mp4,run\n"
    (tmp_path / "in" / "annotations" / "l.csv").write_text(text)
    found = find_videos(tmp_path / "in")
    assert [video.video_id for video in found.videos] == ["videos/1.mp4", "videos/2.mp4"]
    assert found.rejected[0][1].startswith("annotations/l.csv line 4: is not under")


def test_videos_that_no_list_names_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4", "notes.md")
    (tmp_path / "l.csv").write_text("path,label\n1.mp4,run\n2.mp4,jump\n")
    found = find_videos(tmp_path)
    assert "1 videos are in no usable row of a list: 3.mp4" in notes(found) and found.other_files == {".md": 1}


@pytest.mark.parametrize("depth", [100, 500, 900, 990, 5000])
def test_json_nested_deep_is_refused_by_line(tmp_path: Path, depth: int) -> None:
    touch(tmp_path, "1.mp4")
    deep = "[" * depth + "]" * depth
    (tmp_path / "l.jsonl").write_text(f'{{"path": "1.mp4", "label": "run"}}\n{{"path": {deep}, "label": 1}}\n{deep}\n')
    assert [text[:14] for _, text in find_videos(tmp_path / "l.jsonl").rejected] == ["l.jsonl line 2", "l.jsonl line 3"]


def test_a_text_is_not_taken_for_a_label(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "2.mp4")
    (tmp_path / "l.csv").write_text(f"path,label\n1.mp4,{'x' * 5000}\n2.mp4,run\n")
    assert find_videos(tmp_path / "l.csv").rejected == [("1.mp4", "its label has more than 1000 characters")]


def test_texts_beside_videos_are_no_lists(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{i}.mp4" for name in CLASSES for i in range(20)))
    for name in CLASSES:
        for i in range(20):
            (tmp_path / name / f"{i}.json").write_text('[{"path": "1.mp4", "label": "x"}]')
    found = find_videos(tmp_path)
    assert len(found.videos) == 80 and found.other_files == {".json": 80} and not found.notes


@pytest.mark.parametrize("layout", ["hmdb51", "kinetics", "ssv2", "diving48"])
def test_a_list_of_another_layout_than_the_forced_one_is_a_message(tmp_path: Path, layout: str) -> None:
    touch(tmp_path, "1.mp4")
    (tmp_path / "l.csv").write_text("path,label\n1.mp4,run\n")
    with pytest.raises(UserError):
        find_videos(tmp_path / "l.csv", layout=layout)
    with pytest.raises(UserError, match="--root .* is not a folder"):
        find_videos(tmp_path / "l.csv", root=tmp_path / "none")
    with pytest.raises(UserError, match="--label_regex takes labels from file names"):
        find_videos(tmp_path / "l.csv", label_regex="x")


def test_a_list_of_something_else_leaves_the_videos_to_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "run_1.mp4", "jump_1.mp4")
    (tmp_path / "people.csv").write_text("name,age\nAnna,31\n")
    (tmp_path / "numbers.txt").write_text("0 12 33\n1 10 20\n")
    found = find_videos(tmp_path)
    assert found.layout == "flat_names" and counts(found) == {"run": 1, "jump": 1}


def test_a_list_that_is_no_file_is_none(tmp_path: Path) -> None:
    """A pipe would block and a device never end; also where a list brings its partners, or a vocabulary, with it."""
    touch(tmp_path, "run/0.mp4", "run/1.mp4", "jump/0.mp4", "jump/1.mp4", "extra/trainlist01.txt")
    for name in ("list.csv", "metadata.csv", "labels.json", "classInd.txt", "Diving48_vocab.json", "testlist02.txt"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "trainlist02.txt").symlink_to("/dev/zero")
    (tmp_path / "split.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "extra" / "trainlist01.txt").write_text("run/0.mp4\nrun/1.mp4\njump/0.mp4\n")
    os.mkfifo(tmp_path / "extra" / "testlist01.txt")
    assert counts(find_videos(tmp_path, layout="class_folders")) == {"jump": 2, "run": 2}
    assert len(find_videos(tmp_path).videos) == 3, "those of the one list that is a file"
    with pytest.raises(UserError, match="testlist02.txt is a file"):
        find_videos(tmp_path / "testlist02.txt")
