"""data_prep.layouts.official: the lists of benchmarks, with their splits, groups and dead links."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from test_folders import counts, notes, splits
from test_layouts import touch

from data_prep.errors import UserError
from data_prep.labeled import Span
from data_prep.layouts import find_videos

UCF = {"BabyCrawling": 4, "Punch": 71, "PushUps": 72}


def ucf101(root: Path, newline: str, lists: str, videos: str) -> Path:
    train, test = [], []
    for name, index in UCF.items():
        paths = [f"{name}/v_{name}_g{group:02d}_c01.avi" for group in range(1, 6)]
        touch(root, *(videos + path for path in paths))
        test += paths[:2]
        train += [f"{path} {index}" for path in paths[2:]]
    (root / lists).mkdir(exist_ok=True)
    for name, lines in (("trainlist01", train), ("testlist01", test), ("classInd", [f"{i} {n}" for n, i in UCF.items()])):  # fmt: skip
        (root / lists / f"{name}.txt").write_text(newline.join(lines) + newline, newline="")
    return root


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(("lists", "videos"), [("", ""), ("ucfTrainTestlist", "UCF-101/"), ("splits", "")])
def test_ucf101(tmp_path: Path, newline: str, lists: str, videos: str) -> None:
    ucf101(tmp_path, newline, lists, videos)
    for source in (tmp_path, tmp_path / lists / "trainlist01.txt"):
        found = find_videos(source)
        assert found.layout == "ucf101" and splits(found) == {"train": 9, "test": 6} and not found.rejected
        assert set(counts(found)) == set(UCF)
        assert {video.group for video in found.videos if video.labels == ("Punch",)} == {f"Punch/g0{i}" for i in range(1, 6)}  # fmt: skip


def test_ucf101_bad_lines_and_other_folds(tmp_path: Path) -> None:
    ucf101(tmp_path, "\n", "", "")
    with (tmp_path / "trainlist01.txt").open("a") as file:
        file.write(
            "Punch/v_Punch_g03_c01.avi 4\nPunch/gone.avi 71\n../Punch/v_Punch_g01_c01.avi 71\n/etc/x.avi 1\nx.avi\n"
        )
    (tmp_path / "trainlist02.txt").write_text("Punch/v_Punch_g01_c01.avi 71\n")
    found = find_videos(tmp_path)
    assert [reason.split(":")[0] for _, reason in found.rejected] == [f"trainlist01.txt line {i}" for i in range(10, 15)]  # fmt: skip
    assert "'BabyCrawling' in classInd.txt" in found.rejected[0][1]
    assert len(found.videos) == 15 and "fold 01 is used; there are also 02" in notes(found)


def test_hmdb51(tmp_path: Path) -> None:
    for name in ("brush_hair", "cartwheel"):
        touch(tmp_path, *(f"{name}/{name}_{i}.avi" for i in range(6)))
        for fold in (1, 2):
            path = tmp_path / "testTrainMulti_7030_splits" / f"{name}_test_split{fold}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(f"{name}_{i}.avi {use} \n" for i, use in enumerate((1, 1, 1, 2, 2, 0))))
    found = find_videos(tmp_path)
    assert found.layout == "hmdb51" and splits(found) == {"train": 6, "test": 4}
    assert set(counts(found)) == {"brush_hair", "cartwheel"} and "the others are 2" in notes(found)
    assert [reason.split(": ")[1] for _, reason in found.rejected] == ["unused in this split"] * 2


@pytest.mark.parametrize("place", ["", "videos/", "{split}/", "{split}/{label}/"])
def test_kinetics(tmp_path: Path, place: str) -> None:
    labels = ("abseiling", "air drumming")
    for split, there, listed in (("train", 16, 16), ("val", 4, 8)):
        rows = ["label,youtube_id,time_start,time_end,split"]
        for i in range(listed):
            name, label = f"{'-_=x'[i % 4]}{split}{i:06d}", labels[i % 2]
            rows.append(f"{label},{name},{i},{i + 10},{split}")
            if i < there:
                touch(tmp_path, place.format(split=split, label=label) + f"{name}_{i:06d}_{i + 10:06d}.mp4")
        (tmp_path / f"{split}.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end,split\nabc,1,11,test\n")
    found = find_videos(tmp_path)
    assert found.layout == "kinetics" and splits(found) == {"train": 16, "validation": 4}
    reasons = Counter(reason.split(": ")[1].split(" ")[0] for _, reason in found.rejected)
    assert reasons == {"no": 4, "has": 1} and ("abc", "test.csv line 2: has no label") in found.rejected


def test_something_something_v2(tmp_path: Path) -> None:
    templates = ["Pushing [something] left", "Holding [something]"]
    (tmp_path / "labels.json").write_text(json.dumps({"Pushing something left": "0", "Holding something": "1"}))
    number = 0
    for split, size in (("train", 12), ("validation", 8), ("test", 4)):
        entries = []
        for i in range(size):
            number += 1
            touch(tmp_path, f"videos/{number}.webm")
            entry = {"id": str(number)}
            if split != "test":
                entry |= {"label": f"pushing cup {i}", "template": templates[i % 2], "placeholders": ["cup"]}  # type: ignore[dict-item]
            entries.append(entry)
        (tmp_path / f"{split}.json").write_text(json.dumps(entries))
    found = find_videos(tmp_path)
    assert found.layout == "ssv2" and splits(found) == {"train": 12, "validation": 8}
    assert counts(found) == {"Pushing something left": 10, "Holding something": 10}
    assert [reason for _, reason in found.rejected] == [f"test.json entry {i}: has no label" for i in range(1, 5)]


def test_diving48(tmp_path: Path) -> None:
    for split, numbers in (("train", range(8)), ("test", range(8, 12))):
        touch(tmp_path, *(f"rgb/clip_{i}.mp4" for i in numbers))
        entries = [{"vid_name": f"clip_{i}", "label": i % 2, "start_frame": 0, "end_frame": 9999} for i in numbers]
        (tmp_path / f"Diving48_V2_{split}.json").write_text(json.dumps(entries))
    (tmp_path / "Diving48_vocab.json").write_text(json.dumps([["Back", "15som", "TUCK"], ["Front", "Dive", "PIKE"]]))
    found = find_videos(tmp_path)
    assert found.layout == "diving48" and splits(found) == {"train": 8, "test": 4}
    assert counts(found) == {"Back 15som TUCK": 6, "Front Dive PIKE": 6}
    assert found.videos[0].span == Span(0, 9999, "frames")


@pytest.mark.parametrize(
    "content",
    ['[{"vid_name": 1}, 7, null, {"vid_name": "x", "label": []}, {"vid_name": {}}]', '{"vid_name": 3}', "[" * 100_000,
     '"vid_name" [', '[{"vid_name": "../x", "label": 1, "start_frame": 5, "end_frame": 1e999}]'],
)  # fmt: skip
def test_json_of_a_wrong_shape_is_a_message(tmp_path: Path, content: str) -> None:
    touch(tmp_path, "1.mp4")
    (tmp_path / "train.json").write_text(content)
    for layout in ("diving48", "ssv2", "table"):
        with pytest.raises(UserError):
            find_videos(tmp_path / "train.json", layout=layout)


def test_a_video_of_another_class_with_the_same_name_is_not_taken(tmp_path: Path) -> None:
    touch(tmp_path, "Ollie/1.mp4", "Kickflip/2.mp4", "Kickflip/3.mp4")
    (tmp_path / "trainlist02.txt").write_text("Ollie/1.mov\nKickflip/2.mov\nKickflip/1.mov\n")
    found = find_videos(tmp_path)
    assert sorted(video.video_id for video in found.videos) == ["Kickflip/2.mp4", "Ollie/1.mp4"]
    assert "in a folder 'Kickflip'" in found.rejected[0][1] and "another extension" in notes(found)


def test_one_fold_in_two_ends_of_line_is_read_once(tmp_path: Path) -> None:
    ucf101(tmp_path, "\n", "lf", "")
    ucf101(tmp_path, "\r\n", "crlf", "")
    found = find_videos(tmp_path)
    assert splits(found) == {"train": 9, "test": 6} and not found.rejected and "says the same" in notes(found)
    (tmp_path / "lf" / "testlist01.txt").write_text("Punch/v_Punch_g01_c01.avi\n")
    with pytest.raises(UserError, match="different lists of one fold"):
        find_videos(tmp_path)


def test_one_hmdb51_list_brings_those_of_the_other_classes(tmp_path: Path) -> None:
    touch(tmp_path, "wave/a.avi", "run/b.avi")
    (tmp_path / "wave_test_split2.txt").write_text("a.avi 1 \n")
    (tmp_path / "run_test_split2.txt").write_text("b.avi 2\nb.avi 7\n")
    for layout in (None, "hmdb51"):
        found = find_videos(tmp_path / "wave_test_split2.txt", layout=layout)
        assert counts(found) == {"wave": 1, "run": 1} and len(found.rejected) == 1
