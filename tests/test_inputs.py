"""What a user points at becomes a list of videos."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from data_prep.errors import UserError
from finetune.use.inputs import Input, find_inputs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "a/2.mp4",
        "a/10.MOV",
        "a/.hidden.mp4",
        "b/1.webm",
        "frames/f1.png",
        "frames/f2.png",
        "c.txt",
        "one/f1.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def names(folder: Path, found: list[Input]) -> list[str]:
    return [str(Path(one.path).relative_to(folder)) for one in found]


def test_a_folder_stands_for_its_videos_and_its_folders_of_images(folder: Path) -> None:
    assert names(folder, find_inputs([str(folder)])) == ["a/10.MOV", "a/2.mp4", "b/1.webm", "frames"]


def test_a_glob_a_file_and_a_missing_file_keep_their_order_and_come_once(folder: Path) -> None:
    found = find_inputs(
        [str(folder / "b/1.webm"), str(folder / "*/*.mp4"), str(folder / "gone.mp4"), str(folder / "b")]
    )
    assert names(folder, found) == ["b/1.webm", "a/2.mp4", "gone.mp4"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("l.csv", "path,label\na/2.mp4,jump\n\"b/1.webm\",\"run, fast\"\n", [("a/2.mp4", "jump"), ("b/1.webm", "run, fast")]),
        ("l.csv", "\ufeffa/2.mp4,jump\r\nb/1.webm,\r\n", [("a/2.mp4", "jump"), ("b/1.webm", None)]),
        ("l.tsv", "label\tvideo\njump\ta/2.mp4\n", [("a/2.mp4", "jump")]),
        ("l.txt", "a/2.mp4\n\nb/1.webm\n", [("a/2.mp4", None), ("b/1.webm", None)]),
    ],
)  # fmt: skip
def test_a_list_gives_paths_from_its_folder_and_labels(folder: Path, name: str, text: str, expected: list) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    found = find_inputs([str(folder / name)])
    assert list(zip(names(folder, found), (one.label for one in found))) == expected


def test_standard_input_gives_paths_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a b.mp4\n\n/x/y,z.mp4\r\n"))
    assert find_inputs(["-"]) == [Input("a b.mp4"), Input("/x/y,z.mp4")]


def test_names_that_are_not_utf8_come_through_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9.mp4\nb.mp4\n"), encoding="utf-8"))
    assert [one.path.encode("utf-8", "surrogateescape") for one in find_inputs(["-"])] == [b"caf\xe9.mp4", b"b.mp4"]


def test_a_glob_of_folders_stands_for_the_videos_in_them(folder: Path) -> None:
    assert names(folder, find_inputs([str(folder / "[ab]")])) == ["a/10.MOV", "a/2.mp4", "b/1.webm"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("one", "holds no videos"), ("two.csv", "a/2.mp4 has two labels, 'jump' and 'run'"), ("*.xyz", "matches no file"), ("empty.csv", "names no video"), ("bad.csv", "line 2: path is empty"), ("quote.csv", "line 1: its quotes")],
)  # fmt: skip
def test_what_means_no_video_is_an_error(folder: Path, text: str, message: str) -> None:
    (folder / "empty.csv").write_text("path,label\n")
    (folder / "bad.csv").write_text("path,label\n,x\n")
    (folder / "two.csv").write_text("a/2.mp4,jump\na/2.mp4\na/2.mp4,run\n")
    (folder / "quote.csv").write_text('"a.mp4,x\n')
    with pytest.raises(UserError, match=message):
        find_inputs([str(folder / text)])


def test_nothing_under_a_folder_is_passed_over_in_silence(folder: Path) -> None:
    """A folder named like a video gets its error row; links to folders are followed, and not round and round."""
    (folder / "a" / "empty.mp4").mkdir()
    (folder / "linked").symlink_to(folder / "b", target_is_directory=True)
    (folder / "b" / "up").symlink_to(folder, target_is_directory=True)
    expected = ["a/10.MOV", "a/2.mp4", "a/empty.mp4", "b/1.webm", "frames", "linked/1.webm"]
    assert [name for name in names(folder, find_inputs([str(folder)])) if "/up/" not in name] == expected
    assert names(folder, find_inputs([str(folder / "a" / "*.mp4")])) == ["a/2.mp4", "a/empty.mp4"]


def test_a_folder_of_numbered_images_is_a_video_itself(folder: Path) -> None:
    assert find_inputs([str(folder / "frames")]) == [Input(str(folder / "frames"))]


def test_the_label_of_a_list_goes_with_a_path_that_came_before(folder: Path) -> None:
    (folder / "l.csv").write_text("a/2.mp4,jump\na/2.mp4,jump\n")
    assert find_inputs([str(folder / "a/2.mp4"), str(folder / "l.csv")]) == [Input(str(folder / "a/2.mp4"), "jump")]


def test_an_empty_word_is_not_the_folder_that_one_is_in() -> None:
    with pytest.raises(UserError, match="an INPUT is empty"):
        find_inputs([""])
