"""Names that would be markup, code or nothing anybody can see, all the way from folders of videos to the Hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from conftest import Run
from huggingface_hub import ModelCard

from data_prep.letters import drawable

ROOT = Path(__file__).parents[1]
LABELS = [
    "---", "{{ 7*7 }}", "a|b", "<script>alert(1)<", "two\nlines", "\u202egnp.exe", "🎬", "滑板", "$x_1$", "_", "`", "‏مرحبا", "%s%d{0}",
    "- no", "#", "\u200b",
]  # fmt: skip

VALIDATE = (
    "from huggingface_hub import DatasetCard, ModelCard;"
    "ModelCard.load('out/README.md').validate(); DatasetCard.load('me/data').validate(); print('valid')"
)


def hostile_videos(bars: Path, videos: Path, several: bool) -> Path:
    """Three videos of each of LABELS, as folders, or as a list in which the first label is everybody's second one."""
    listed = []
    for number, label in enumerate(LABELS):
        for copy in range(3):
            name = f"{number}{label[:1]}/{copy} {label}.mp4" if several else f"{label}/{label}{copy}.mp4"
            (videos / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(bars / "left" / f"{number}.mp4", videos / name)
            listed.append({"file_name": name, "labels": [label, LABELS[0]] if number else [label]})
    if several:
        (videos / "metadata.jsonl").write_text("\n".join(map(json.dumps, listed)))
    return videos / "metadata.jsonl" if several else videos


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True], ids=["one label", "several labels"])
def test_hostile_names_go_all_the_way(hub: Any, python: Run, bars: Path, tmp_path: Path, several: bool) -> None:
    source = hostile_videos(bars, tmp_path / "videos", several)
    options = ("--num_proc", "1", "--no_duplicates", "--splits", "0.34", "0.33", "0.33", "--push_to_hub", "me/data")
    prepared = python("-m", "data_prep", str(source), "data", *options)
    assert prepared.returncode == 0 and "Glyph" not in prepared.stderr, prepared.stderr
    push = ["--push_to_hub", "--hub_model_id", "me/model"]
    trained = python(
        str(ROOT / "finetune" / "run.py"), "--dataset_name", "data", "--output_dir", "out", "--model_name_or_path",
        "timesformer-tiny", "--max_steps", "1", "--per_device_train_batch_size", "4", "--dataloader_num_workers", "0",
        "--config", "none", "--eval_strategy", "no", "--push_examples", *([] if several else push),
    )  # fmt: skip
    assert trained.returncode == 0 and "Glyph" not in trained.stderr, trained.stderr
    assert "7*7" in json.dumps(json.loads((tmp_path / "out" / "config.json").read_text()))
    card = (tmp_path / "out" / "README.md").read_text()
    assert several or hub.files("me/model")["README.md"].decode() == card
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert set(yaml.safe_load(head)) >= {"library_name", "pipeline_tag", "model-index"}
    assert ModelCard(card).data.model_name == ("out" if several else "model") and "](predictions.png)" in body
    if int(huggingface_hub.__version__.partition(".")[0]) >= 2:  # 1.x asks huggingface.co, whatever HF_ENDPOINT says
        validated = python("-c", VALIDATE)
        assert validated.stdout == "valid\n", validated.stderr
    video = str(next((tmp_path / "videos").rglob("*.mp4")))
    shown = python("-m", "finetune.predict", "out" if several else "me/model", video, "--format", "json")
    assert json.loads(shown.stdout)[0]["predictions"][0]["label"] in LABELS, shown.stderr


@pytest.mark.parametrize(
    ("text", "length", "shown"),
    [
        ("滑板", 28, r"\u6ed1\u677f"),
        ("滑板滑板滑板", 28, r"\u6ed1\u677f\u6ed1\u677f…"),
        ("🎬 film", 28, r"\U0001f3ac film"),
        ("a" * 28, 28, "a" * 28),
        ("a" * 29, 28, "a" * 27 + "…"),
        ("\u202egnp.exe", 28, r"\u202egnp.exe"),
        ("$x$", 28, r"\$x\$"),
        ("_x", 28, " _x"),
        ("", 28, "(empty)"),
        ("مرحبا", 28, "\u200eمرحبا\u200e"),
        ("two\nlines", 28, r"two\nlines"),
    ],
)
def test_a_name_in_a_picture_is_legible_or_escaped(text: str, length: int, shown: str) -> None:
    assert drawable(text, length) == shown
