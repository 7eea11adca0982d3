"""data_prep.layouts.folders: folders and names that say the class, the split, the person; folders of frames."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from test_layouts import touch

from data_prep.errors import UserError
from data_prep.labeled import Found
from data_prep.layouts import find_videos

CLASSES = ("jump", "kick_flip", "run", "sit")


def counts(found: Found) -> Counter[object]:
    return Counter(labels[0] if (labels := video.labels) else None for video in found.videos)


def splits(found: Found) -> Counter[str | None]:
    return Counter(video.split for video in found.videos)


def notes(found: Found) -> str:
    return "\n".join(found.notes)


def test_class_folders_make_no_splits(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{i}.mp4" for name in CLASSES for i in range(6)))
    found = find_videos(tmp_path)
    assert found.layout == "class_folders" and counts(found) == dict.fromkeys(CLASSES, 6)
    assert splits(found) == {None: 24} and not found.rejected and not found.notes and not found.multi_label


def test_split_folders(tmp_path: Path) -> None:
    for split, number in (("training", 4), ("validation", 1), ("testing", 1)):
        touch(tmp_path, *(f"{split}/{name}/{i}.mp4" for name in CLASSES for i in range(number)))
    found = find_videos(tmp_path)
    assert found.layout == "split_folders" and splits(found) == {"train": 16, "validation": 4, "test": 4}
    assert set(counts(found)) == set(CLASSES)


def test_splits_inside_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{split}/{i}.mp4" for name in CLASSES for split in ("train", "val") for i in range(2)))
    found = find_videos(tmp_path)
    assert found.layout == "class_split_folders" and splits(found) == {"train": 8, "validation": 8}
    assert counts(found) == dict.fromkeys(CLASSES, 4)


def test_class_folders_below_videos(tmp_path: Path) -> None:
    touch(tmp_path, "videos/run/1.mp4", "videos/jump/1.mp4")
    found = find_videos(tmp_path)
    assert counts(found) == {"run": 1, "jump": 1} and "below videos/" in notes(found)
    assert {video.video_id for video in found.videos} == {"videos/run/1.mp4", "videos/jump/1.mp4"}


def test_real_flat_names_need_a_regex_and_the_twins_are_one_class(tmp_path: Path) -> None:
    touch(tmp_path, "Cov-Atlas+(1).gif", "Cov_new.mpeg", "Pneu_a.mp4", "Pneu_b.avi", "pneu-c.mp4", "Reg_x.mp4", "Vir_1.avi")  # fmt: skip
    found = find_videos(tmp_path, label_regex=r"^([A-Za-z]+)[-_]")
    assert counts(found) == {"Cov": 2, "Pneu": 3, "Reg": 1, "Vir": 1}
    assert "'pneu' became 'Pneu'" in notes(found)


def test_names_that_a_label_regex_does_not_match_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/run-1.mp4", "b/jump-1.mp4", "b/x.mp4")
    found = find_videos(tmp_path, label_regex=r"/([a-z]+)-")
    assert counts(found) == {"run": 1, "jump": 1}
    assert found.rejected == [("b/x.mp4", "--label_regex '/([a-z]+)-' does not match it")]
    with pytest.raises(UserError, match="--label_regex '\\(' is not a regular expression"):
        find_videos(tmp_path, label_regex="(")


@pytest.mark.parametrize(
    "persons", [("person1", "person2", "person3"), ("s1", "s2", "s10"), ("Subject A", "Subject B")]
)
def test_person_folders_are_groups_not_classes(tmp_path: Path, persons: tuple[str, ...]) -> None:
    touch(tmp_path, *(f"{person}/{name}/{i}.mp4" for person in persons for name in CLASSES for i in range(2)))
    found = find_videos(tmp_path)
    assert found.layout == "person_folders" and set(counts(found)) == set(CLASSES)
    assert {video.group for video in found.videos} == set(persons)
    assert "persons" in notes(found)


def test_folders_that_recur_without_a_telling_name_are_asked_about(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{person}/{name}/1.mp4" for person in ("anna", "ben", "cara") for name in CLASSES))
    with pytest.raises(UserError, match="(?s)anna, ben, cara.*jump.*--layout class_folders.*--layout person_folders"):
        find_videos(tmp_path)
    assert set(counts(find_videos(tmp_path, layout="person_folders"))) == set(CLASSES)
    assert set(counts(find_videos(tmp_path, layout="class_folders"))) == {"anna", "ben", "cara"}


def test_sessions_in_class_folders_are_groups(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/p{i}/1.mp4" for name in CLASSES for i in range(3)))
    found = find_videos(tmp_path)
    assert set(counts(found)) == set(CLASSES) and {video.group for video in found.videos} == {"p0", "p1", "p2"}


def test_nested_class_folders_with_the_same_names_everywhere(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{c}/{p}/{s}/IMG_0001.mp4" for c in CLASSES for p in ("ann", "bob", "cy") for s in ("am", "pm")))
    found = find_videos(tmp_path)
    assert found.layout == "class_folders" and counts(found) == dict.fromkeys(CLASSES, 6)
    assert {video.group for video in found.videos} == {"ann", "bob", "cy"} and "taken for a person" in notes(found)


def test_extensions_in_any_case_and_files_without_one(tmp_path: Path) -> None:
    touch(tmp_path, "run/1.MP4", "run/2.Mp4", "run/3.mov", "jump/4.M4V", "jump/5.MOV", "jump/noextension")
    found = find_videos(tmp_path)
    assert len(found.videos) == 5 and found.other_files == {"": 1}


def test_odd_class_names_are_kept_and_outer_spaces_removed_with_a_note(tmp_path: Path) -> None:
    names = ["1", "2", "10", "child_s pose", "U\u0308ni\u0308code 跳", 'a,b "quoted"', "train", "ollie "]
    touch(tmp_path, *(f"{name}/{i}.mp4" for name in names for i in range(3)))
    found = find_videos(tmp_path)
    assert counts(found) == dict.fromkeys(("1", "2", "10", "child_s pose", "Ünïcode 跳", 'a,b "quoted"', "train", "ollie"), 3)  # fmt: skip
    assert "'ollie '" in notes(found) and "NFC: Ünïcode 跳" in notes(found)


def test_twins_in_case_become_the_more_frequent_spelling(tmp_path: Path) -> None:
    touch(tmp_path, "Ollie/1.mp4", "ollie/2.mp4", "ollie/3.mp4", "run/1.mp4")
    found = find_videos(tmp_path)
    assert counts(found) == {"ollie": 3, "run": 1} and "'Ollie' became 'ollie'" in notes(found)


def test_empty_classes_and_classes_of_one_split(tmp_path: Path) -> None:
    touch(tmp_path, "train/run/1.mp4", "train/jump/1.mp4", "val/run/2.mp4", "val/sit/1.mp4", "val/text_only/a.txt")
    (tmp_path / "train" / "padmasana").mkdir()
    (tmp_path / "train" / "run" / "2.mp4").mkdir()
    found = find_videos(tmp_path)
    assert counts(found) == {"run": 2, "jump": 1, "sit": 1}
    assert found.rejected == [("train/run/2.mp4", "is an empty folder")]
    assert "'train/padmasana' holds no videos" in notes(found) and "'val/text_only' holds no videos" in notes(found)


def test_frame_folders(tmp_path: Path) -> None:
    for label in ("run", "jump"):
        touch(tmp_path, *(f"{label}/video1/frame{i:04d}.png" for i in range(1, 5)))
        touch(tmp_path, *(f"{label}/video2/img_{i:05d}.jpg" for i in range(1, 5)))
        touch(tmp_path, *(f"{label}/video3/frame{i}.png" for i in (1, 2, 3, 10)))
        touch(tmp_path, *(f"{label}/video4/frame{i:04d}.png" for i in (1, 2, 4)))
        (tmp_path / label / "video4" / "frame0002.png").write_bytes(b"")
    (tmp_path / "rawframes_list.txt").write_text("run/video1 4 0\njump/video2 4 1\nrun/none 3 0\n")
    found = find_videos(tmp_path)
    assert found.layout == "frame_folders" and counts(found) == {"run": 4, "jump": 4}
    assert all(video.path.is_dir() for video in found.videos)
    assert "run/video4: frame 3 is missing" in notes(found) and "frame0002.png has zero bytes" in notes(found)
    assert "rawframes_list.txt" in notes(found)
    listed = find_videos(tmp_path / "rawframes_list.txt")
    assert {video.video_id: video.labels for video in listed.videos} == {"run/video1": ("0",), "jump/video2": ("1",)}
    assert len(listed.rejected) == 1 and not listed.multi_label


def test_pictures_beside_videos_are_other_files(tmp_path: Path) -> None:
    touch(tmp_path, "run/1.mp4", "jump/1.mp4", "run/sheet1.jpg", "run/sheet2.jpg", "run/thumbs/1.jpg", "run/thumbs/2.jpg")  # fmt: skip
    found = find_videos(tmp_path)
    assert len(found.videos) == 2 and found.other_files == {".jpg": 4}
    assert "1 folders of numbered images were passed over" in notes(found)


def test_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    names = [f"class{i}" for i in range(6)]
    touch(tmp_path, *(f"{name}/1.mp4" for name in names))
    for name in names:
        for other in names:
            os.symlink(tmp_path / other, tmp_path / name / f"to_{other}")
    found = find_videos(tmp_path)
    assert len(found.videos) + len(found.rejected) > 0
    assert not found.videos or {len(video.labels) for video in found.videos} == {1}


def test_a_layout_can_be_forced_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "train/a_1.mp4", "test/b_1.mp4")
    assert counts(find_videos(tmp_path, layout="class_folders")) == {"train": 1, "test": 1}
    with pytest.raises(UserError, match="--layout is 'x', expected one of class_folders"):
        find_videos(tmp_path, layout="x")
    with pytest.raises(UserError, match="no list of the layout kinetics"):
        find_videos(tmp_path, layout="kinetics")
