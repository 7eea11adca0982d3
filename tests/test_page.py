"""The report says what is true, stays one small file, and lets no name or label steer it."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.report import page
from data_prep.report.facts import kind_of_reason, plural, quoted, show_bytes, show_seconds, visible
from data_prep.report.page import PageFacts, Related, VideoFact, advice, write_page
from data_prep.report.pairs import of_many_groups

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "$\\frac{$",
    "跳 🤸",
    "\u202eesrever\u200b",
    "مرحبا 12",
    "a\x1b[31m\r\nb\udcff",
    "Z" + "\u0310" * 50,
    "x" * 2000,
    "{{ 7 * 7 }}",
    "",
    "--></style></title>",
]


def video(video_id: str = "a.mp4", label: str = "run", split: str = "train", **changes: object) -> VideoFact:
    fact = VideoFact(
        video_id=video_id, labels=(label,), split=split, group=None, num_frames=50, fps=25.0, duration=2.0, height=48,
        width=64, codec="h264", num_bytes=1000, brightness=120.0, decode_seconds=0.01,
    )  # fmt: skip
    return replace(fact, **changes)  # type: ignore[arg-type]


def facts(videos: list[VideoFact] | None = None, **changes: object) -> PageFacts:
    if videos is None:
        videos = [
            video(f"{label}/{i}.mp4", label, split, group=f"{label}{i}")
            for label in ("run", "jump")
            for i, split in enumerate(("train", "train", "validation", "test"))
        ]
    found = PageFacts(
        title="videos", command="python -m data_prep videos out", labels=["run", "jump"], videos=videos, rejected=[],
        related=[], notes=[], store="files", stored_bytes=5_000_000, wall_seconds=3.2, num_proc=2,
    )  # fmt: skip
    return replace(found, **changes)  # type: ignore[arg-type]


def gray(video_id: str, positions: list[float]) -> np.ndarray:
    levels = (np.array(positions) * 255).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (len(positions), 48, 64, 3))


class Page(HTMLParser):
    """What a browser sees: texts, and every element with its attributes."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(self.source)
        self.rows = [row for row in self.rows if row]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def images(self) -> list[str]:
        return [attrs["src"] or "" for tag, attrs in self.elements if tag == "img"]


def written(tmp_path: Path, given: PageFacts, read_frames: page.ReadFrames = gray) -> Page:
    write_page(tmp_path, given, read_frames)
    return Page(tmp_path / "report.html")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return written(tmp_path_factory.mktemp("plain"), facts())


def test_page_is_one_file_that_loads_and_runs_nothing(plain: Page) -> None:
    shown = plain
    assert not {tag for tag, _ in shown.elements} & {"script", "link", "iframe", "object", "form", "base"}
    assert all(src.startswith("data:image/") for src in shown.images())
    assert all(attrs["href"].startswith("#") for _, attrs in shown.elements if attrs.get("href"))  # type: ignore[union-attr]
    assert not re.search(r"https?:|url\(|@import", re.sub(r'data:image/[^"]+', "", shown.source))
    policy = next(attrs["content"] for tag, attrs in shown.elements if "http-equiv" in attrs)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_links_of_the_navigation_lead_somewhere(plain: Page) -> None:
    ids = {attrs["id"] for _, attrs in plain.elements if "id" in attrs}
    assert {attrs["href"] for tag, attrs in plain.elements if tag == "a"} == {f"#{name}" for name in ids}


def test_every_class_and_split_total_appears(tmp_path: Path) -> None:
    videos = [video(f"r{i}", "run", "train") for i in range(7)] + [video("t", "run", "test")]
    videos += [video(f"j{i}", "jump", "validation", labels=("jump", "run")) for i in range(3)]
    shown = written(tmp_path, facts(videos))
    assert ["no.", "class", "train", "validation", "test", "all"] in shown.rows
    assert ["1", "run", "7", "3", "1", "11"] in shown.rows
    assert ["2", "jump", "0", "3", "0", "3"] in shown.rows
    assert "videos 11 train 7, validation 3, test 1" in shown.text
    assert "stored 5.0 MB as files took 3.2 s on 2 processes" in shown.text


def test_hostile_names_stay_text_everywhere(tmp_path: Path) -> None:
    hostile = [label + end for label in HOSTILE for end in ("", "2")]
    videos = [video(name, name, group=name, codec=name) for name in hostile]
    harmless = written(tmp_path / "a", facts([video(str(i), str(i), group=str(i)) for i in range(len(hostile))]))
    given = facts(
        videos, labels=hostile, title=HOSTILE[0], command=HOSTILE[1], notes=hostile, store=HOSTILE[1],
        rejected=[(name, name) for name in hostile], related=[Related(hostile[0], name, name, name) for name in hostile],
    )  # fmt: skip
    shown = written(tmp_path / "b", given)
    usual = {tag for tag, _ in harmless.elements} | {"ul", "li", "p", "details", "summary"}
    assert {tag for tag, _ in shown.elements} <= usual
    assert not any(name.startswith("on") for _, attrs in shown.elements for name in attrs)
    for _, attrs in shown.elements:
        for value in attrs.values():
            if value and value.startswith("data:"):
                continue
            assert not value or not any(part in value for part in ("alert", "esrever", "跳", "xxxx", "{{", "frac"))
    assert "<script>alert(1)</script>" in shown.text and "{{ 7 * 7 }}" in shown.text
    assert not re.search("[\u202e\u200b\x1b\r]", shown.source)
    assert "\\u202eesrever\\u200b" in shown.text and "\\x1b[31m\\r\\nb\\udcff" in shown.text
    assert "\u0310" * 5 not in shown.source and "x" * 401 not in shown.text


def test_picture_files_have_plain_names_and_open(tmp_path: Path) -> None:
    names = [*HOSTILE, "../../etc/passwd", "CON", "Ride Bike"]
    given = facts([video(name, name) for name in names], labels=names)
    write_page(tmp_path, given, gray)
    files = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert all(re.fullmatch(r"[a-z0-9_]+\.png", name) for name in files)
    assert {"classes.png", "durations.png", "sizes.png", "frame_rates.png", "codecs.png", "brightness.png"} <= set(
        files
    )
    assert sum(name.startswith("contact_") for name in files) == len(names)
    assert "contact_15_ride_bike.png" in files
    for path in (tmp_path / "report").iterdir():
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG" and min(image.size) > 60


def test_every_refused_file_and_reason_appears(tmp_path: Path) -> None:
    rejected = [("a/1.mp4", "is empty"), ("a/2.mp4", "is damaged: 3 of 40"), ("a/3.mp4", "is damaged: 5 of 9")]
    shown = written(tmp_path, facts(rejected=rejected))
    assert "2 is damaged: N of N" in shown.text and "1 is empty" in shown.text
    for path, reason in rejected:
        assert path in shown.text and reason in shown.text


def test_conflict_shows_both_videos_with_label_and_split_or_why_one_was_refused(tmp_path: Path) -> None:
    asked: list[str] = []

    def read(video_id: str, positions: list[float]) -> np.ndarray:
        asked.append(video_id)
        return gray(video_id, positions)

    related = [
        Related("run/0.mp4", "jump/3.mp4", "copy", ""),
        Related("run/1.mp4", "gone.mp4", "identical", "conflict"),
    ]
    shown = written(tmp_path, facts(related=related, rejected=[("gone.mp4", "has two labels")]), read)
    assert "gone.mp4" in asked
    text = shown.text[shown.text.rindex("Duplicates, conflicts and leaks") :]
    first, second = text.split("encoded anew or cut: kept in one group")[-2:]
    assert "identical files: two labels" in first and "gone.mp4 refused: has two labels" in first  # urgent ones first
    assert "run/0.mp4 train, 2.0 s; label run" in second and "jump/3.mp4 test, 2.0 s; label jump" in second


def test_contact_sheets_take_videos_of_every_split_and_none_twice(tmp_path: Path) -> None:
    asked: list[str] = []

    def read(video_id: str, positions: list[float]) -> None:
        asked.append(video_id)
        assert len(positions) == 8 and min(positions) > 0 and max(positions) < 1

    videos = [video(f"{split}{i}", "run", split) for split in ("train", "validation", "test") for i in range(4)]
    shown = written(tmp_path, facts(videos), read)
    assert len(set(asked)) == len(asked) == page.MAX_STRIPS_PER_CLASS
    assert {name[:-1] for name in asked} == {"train", "validation", "test"}
    assert shown.text.count("frames could not be read") == len(asked)
    assert not list((tmp_path / "report").glob("contact_*"))


def test_page_stays_bounded_with_many_classes_rows_and_noisy_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MAX_STRIPS", 30)
    monkeypatch.setattr(page, "MAX_CLASS_ROWS", 40)
    monkeypatch.setattr(page, "_STRIP_BYTES", 2_000_000)
    labels = [f"class {i}" for i in range(60)]
    videos = [video(f"{label}/{i}", label, group=label) for label in labels for i in range(5)]
    noise = np.random.default_rng(0).integers(0, 256, (8, 120, 160, 3), dtype=np.uint8)
    asked: list[str] = []

    def read(video_id: str, positions: list[float]) -> np.ndarray:
        asked.append(video_id)
        return noise

    given = facts(
        videos,
        labels=labels,
        rejected=[(f"file{i}", chr(97 + i % 20) * (1 + i // 20 % 20)) for i in range(5000)],
        related=[Related(f"class 0/{i % 5}", f"class 1/{i % 5}", "copy", "leak") for i in range(1000)],
    )
    shown = written(tmp_path, given, read)
    assert len(asked) <= 30 + 2 * page.MAX_PAIRS
    assert (tmp_path / "report.html").stat().st_size < 3_300_000
    assert len(shown.rows) < 40 + 3 * page.MAX_ROWS + 300
    for words in ("and 20 more, in summary.json", "and 30 classes more", "more, in rejected.csv", "and 800 more"):
        assert words in shown.text


@pytest.mark.parametrize(
    "given",
    [
        facts([], labels=[]),
        facts([], rejected=[("a", "is empty")]),
        facts([video(labels=())]),
        facts([video(fps=None, duration=None, brightness=None, decode_seconds=0.0)]),
        facts([video(split="fold 3", duration=0.0, width=4000, height=1)], labels=["run"]),
    ],
    ids=["nothing", "all refused", "no label", "nothing known", "odd"],
)
def test_page_of_little_is_still_a_page(tmp_path: Path, given: PageFacts) -> None:
    shown = written(tmp_path, given, lambda *_: None)
    assert "Contact sheets" in shown.text and "None" not in shown.text and "nan" not in shown.text.split()


def test_same_facts_give_the_same_page(tmp_path: Path, plain: Page) -> None:
    assert written(tmp_path, facts()).source == plain.source


# One row per rule: facts that must and facts that must not draw the sentence, and words of it.
GOOD = facts()
ADVICE = {
    "Uneven classes: “run” has 30 videos, “jump” has 5": facts(
        [video(f"r{i}") for i in range(30)] + [video(f"j{i}", "jump") for i in range(5)]
    ),
    "would be right for 86%": facts([video(f"r{i}") for i in range(30)] + [video(f"j{i}", "jump") for i in range(5)]),
    "Without any video: 1 class, “fly”": facts(labels=["run", "jump", "fly"]),
    "Without a video in test: 1 class, “jump”": facts([*GOOD.videos[:-1]]),
    "Without a video in train: 1 class, “run”. So a model cannot learn": facts(GOOD.videos[2:]),
    "Very short videos: 2 of 8 videos (25%) have fewer than 16 frames, 1 of them": facts(
        [video(num_frames=5), video(num_frames=12), *GOOD.videos[2:]]
    ),
    "Long videos: 1 of 8 videos (12%) last over 60 s, the longest 3.3 min": facts(
        [video(duration=200.0), *GOOD.videos[1:]]
    ),
    "Mixed frame rates: 12 to 25 frames per second": facts([video(fps=12.0), *GOOD.videos[1:]]),
    "Mixed shapes: 1 videos are upright, 7 are wide": facts([video(height=90), *GOOD.videos[1:]]),
    "Dark videos: 1 of 8 videos (12%)": facts([video("night.avi", brightness=9.0), *GOOD.videos[1:]]),
    "Many refused: 3 of 11 files and lines (27%). Most often (2 times): “line N is empty”": facts(
        rejected=[("a", "line 3 is empty"), ("b", "line 47 is empty"), ("c", "is a folder")]
    ),
    "Same content under two labels: 1 pair": facts(related=[Related("a", "b", "copy", "conflict")]),
    "Same content in two of the given splits: 2 pairs": facts(related=[Related("a", "b", "copy", "leak")] * 2),
    "No groups: every video stands on its own": facts([replace(found, group=None) for found in GOOD.videos]),
    "Groups in more than one split: 1": facts([replace(found, group="same") for found in GOOD.videos]),
}


@pytest.mark.parametrize("words", ADVICE)
def test_advice_is_given_where_it_applies_and_only_there(words: str) -> None:
    assert any(words in sentence for sentence in advice(ADVICE[words]))
    assert not any(words.partition(":")[0] in sentence for sentence in advice(GOOD))


@pytest.mark.parametrize(
    ("decode_seconds", "num_frames", "words"),
    [
        (0.0, 50, ""),  # nothing was measured, so nothing is said
        (0.01, 50, "Best store: files (used here: files). A clip costs only 5 ms of one core"),
        (
            0.24,
            300,
            "Best store: clips (used here: files). Making them (5.3 s of one core) pays back after about 12 epochs",
        ),
        (0.07, 3000, "Best store: files (used here: files). Making clips would pay back only after about 480 epochs"),
    ],
)
def test_store_follows_from_the_measured_decoding(decode_seconds: float, num_frames: int, words: str) -> None:
    videos = [replace(found, decode_seconds=decode_seconds, num_frames=num_frames) for found in GOOD.videos]
    assert [sentence for sentence in advice(facts(videos)) if words not in sentence] == []


def test_estimate_of_a_store_is_seconds_per_epoch_of_the_training_videos() -> None:
    videos = [replace(found, decode_seconds=1.0) for found in GOOD.videos]  # 4 of them train
    sentence = advice(facts(videos))[-1]
    assert "up to 2.0 s with --store files, about 0.03 s with clips and 0.01 s with frames" in sentence


def test_leads_of_the_advice_hold_no_user_text() -> None:
    named = [replace(found, video_id="a: b", labels=("a: b",), brightness=1.0, group=None) for found in GOOD.videos]
    for sentence in advice(facts(named, labels=["a: b", "c: d"], rejected=[("x", "a: b")] * 9)):
        assert "a" not in sentence.partition(":")[0].split(), sentence


def test_words_and_numbers() -> None:
    assert visible("a\u202eb\u3164") == "a\\u202eb\\u3164"
    assert visible("") == "(empty)"
    assert len(visible("é" * 5000)) <= 162
    assert quoted("abc") == "“abc”" and quoted("שלום") == "“\u2068שלום\u2069”"
    assert kind_of_reason("line 3: a/b.mp4 is no video") == "line N: FILE is no video"
    assert kind_of_reason("labelled 'a', not \"it's\", in line 3") == "labelled …, not …, in line N"
    assert [plural(1, "class"), plural(1200, "class"), plural(2, "video")] == ["1 class", "1,200 classes", "2 videos"]
    assert [show_seconds(0.5), show_seconds(4.25), show_seconds(200), show_seconds(9000)] == [
        "0.50 s", "4.2 s", "3.3 min", "2.5 h",
    ]  # fmt: skip
    assert [show_bytes(12), show_bytes(1_500_000), show_bytes(2e15)] == ["12 bytes", "1.5 MB", "2,000.0 TB"]


def test_pairs_of_many_groups_are_shown_before_more_of_one() -> None:
    related = [Related("a", f"a{i}", "copy", "") for i in range(3)] + [Related("b", "b0", "mirrored", "")]
    related += [Related("c", "c0", "copy", "leak"), Related("d", "d0", "copy", "conflict")]
    shown = [pair.second for pair in of_many_groups(related, {"a": "a", "b": "b"})]
    assert shown == ["d0", "c0", "a0", "b0", "a1", "a2"]
