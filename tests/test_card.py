"""finetune.sharing.card: facts in, a card out; and nothing in a fact can break YAML, Markdown or the template."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

from finetune.clips.sampling import Sampling
from finetune.results.templates import as_markdown_text
from finetune.sharing.card import CardFacts, render_card

FACTS = CardFacts(
    name="skate", repo_id="me/skate", labels=["Kickflip", "Ollie"], base_model="facebook/timesformer-base-finetuned-k400",
    started_from="facebook/timesformer-base-finetuned-k400", license="apache-2.0", dataset="skate", dataset_id=None,
    counts={"train": {"Kickflip": 80, "Ollie": 70}, "test": {"Kickflip": 10, "Ollie": 9}}, rejected=2,
    notes=["folder 'empty' holds no videos: it is not a class"], split="test",
    metrics={"test_top1": 0.75, "test_top5": 1.0, "test_macro_f1": 0.7412, "test_loss": 0.5},
    per_class={"precision": [0.7, 0.8], "recall": [0.9, 0.6], "f1": [0.7875, 0.6857], "support": [10, 9]},
    protocol="one clip per video", num_frames=8, height=224, width=224, attention_type="divided_space_time", is_plain=True, is_multi_label=False, resampled="groups",
    num_parameters=121_400_000, megabytes=485.6, augmentation="a random frame of each segment", sampling=Sampling(), unreadable=[], recipe={"learning_rate": 5e-5, "seed": 0},
    num_processes=1, seconds=90.0, training_seconds=70.0, training_parts=1, device="CPU (x86_64, 2 cores)", computed_in="float32, 2 threads", eval_batch_size=8, clips_per_second=12.34, code="commit abc",
    curve=[{"epoch": 1.0, "loss": 1.2, "eval_loss": 1.1, "eval_top1": 0.5}], intervals={"test_top1": (0.55, 0.9)},
    confusion=[[9, 1], [4, 5]], groups={"train": 12, "test": 3}, split_seed=0, kept_though_damaged=1, examples=False, chosen_on_validation=True, architecture=None, versions={"torch": "2.14.1"},
)  # fmt: skip

CHANGED = (
    "name",
    "repo_id",
    "labels",
    "started_from",
    "license",
    "dataset",
    "counts",
    "notes",
    "recipe",
    "unreadable",
    "code",
)
HOSTILE = "a|b `c` {{ 7*7 }} {% if %} --- <script>alert(1)</script>\n---\nlicense: evil\n# big *bold* [x](http://y) $x$"


def test_the_metadata_says_what_the_hub_shows() -> None:
    data = ModelCard(render_card(FACTS)).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "video-classification"
    assert data.license == "apache-2.0"
    assert data.base_model == "facebook/timesformer-base-finetuned-k400"
    results = {result.metric_name: result.metric_value for result in data.eval_results}
    assert results == {"top-1 accuracy": 0.75, "macro-F1": 0.7412}, "top-5 accuracy of two classes says nothing"
    assert {result.dataset_split for result in data.eval_results} == {"test"}
    assert data.metrics == ["accuracy", "f1"]
    first = data.eval_results[0]
    assert first.metric_args == {
        "protocol": "one clip per video",
        "interval_95": [0.55, 0.9],
        "interval_over": "groups",
    }
    many = replace(FACTS, labels=[f"class {i}" for i in range(6)], counts={}, per_class={}, confusion=[])
    assert "top_5_accuracy" in ModelCard(render_card(many)).data.metrics


def test_several_labels_a_video_are_measured_as_such_on_the_hub_too() -> None:
    measured = {"mean_average_precision": 0.81, "macro_f1": 0.7, "micro_f1": 0.72, "subset_accuracy": 0.5, "loss": 0.4}
    facts = replace(
        FACTS, is_multi_label=True, confusion=[], metrics={f"test_{name}": value for name, value in measured.items()},
        intervals={"test_mean_average_precision": (0.7, 0.9)}, protocol="thresholds of validation",
    )  # fmt: skip
    data = ModelCard(render_card(facts)).data
    assert data.metrics == ["mAP", "f1", "accuracy"]
    assert {result.metric_name.partition(":")[0]: result.metric_value for result in data.eval_results} == {
        "mean average precision": 0.81, "macro-F1": 0.7, "micro-F1": 0.72, "subset accuracy": 0.5,
    }  # fmt: skip
    assert {result.metric_args["protocol"] for result in data.eval_results} == {"thresholds of validation"}
    assert data.eval_results[0].metric_args["interval_95"] == [0.7, 0.9]


def test_speed_and_time_are_told_with_what_they_were_measured_on() -> None:
    text = render_card(FACTS)
    assert "12.3 clips a second from pixels to scores, in batches of up to 8, in float32, 2 threads, on CPU" in text
    assert "Energy was not measured" in text and "parts" not in text
    text = render_card(replace(FACTS, training_seconds=700.0, training_parts=3, clips_per_second=None))
    assert "training 12 minutes in 3 parts, 1.5 minutes from its last start to card" in text
    assert "Speed was not measured" in text
    text = render_card(replace(FACTS, training_seconds=None, training_parts=2))
    assert "how long training took before it was resumed is not known" in text


def test_the_text_says_protocol_counts_and_recipe() -> None:
    text = render_card(FACTS)
    for expected in (
        "| Kickflip | 80 | 10 | 0.700 | 0.900 | 0.787 |", "one clip per video", "2 files were rejected",
        "| learning\\_rate | `5e-05` |", "150 train, 19 test videos", "121.4 M parameters, 485.6 MB", "bertasius2021timesformer",
        "| top1 | 0.7500 | 0.550 to 0.900 |", "12 in train, 3 in test", "| Ollie | 4 | 5 |", "1.2 minutes, 1.5 minutes from start",
        "commit abc", "percentiles over groups", "| 1.0 | 1.200 | 1.100 | 0.500 |", "the seed 0", "1 damaged files",
    ):  # fmt: skip
        assert expected in text


def test_tables_have_as_many_cells_in_every_row() -> None:
    text = render_card(replace(FACTS, labels=[HOSTILE, "b"], counts={"train": {HOSTILE: 1, "b": 2}}))
    tables, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append(line.replace("\\|", "").count("|"))
        elif rows:
            tables.append(rows)
            rows = []
    assert len(tables) >= 3
    assert all(len(rows) > 2 and len(set(rows)) == 1 for rows in tables), tables


def test_hostile_texts_break_nothing() -> None:
    facts = replace(
        FACTS, name=HOSTILE, repo_id="me/x", labels=[HOSTILE, "b"], started_from=HOSTILE, license=HOSTILE, dataset=HOSTILE,
        counts={"train": {HOSTILE: 1, "b": 1}}, notes=[HOSTILE], recipe={HOSTILE: HOSTILE},
    )  # fmt: skip
    text = render_card(facts)
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    metadata = yaml.safe_load(head)
    assert metadata["license"] == HOSTILE
    assert set(metadata) == {"library_name", "license", "pipeline_tag", "base_model", "metrics", "tags", "model-index"}
    assert "49" not in text
    outside_code = "".join(part for i, part in enumerate(body.split("`")) if i % 2 == 0)
    assert "<script>" not in outside_code.replace("\\<", "")


NASTY = [
    HOSTILE, "---", "\n---\n", "{{ facts }}", "{% raw %}", "|", "a\\|b", "`", "```\n# x", "<script>alert(1)</script>", "<!--", "&lt;b&gt;",
    "![x](http://y/z.png)", "[a]: http://b", "\u202egnp.exe", "\u200b", "\x00\x1b[31m", "- item", "1. item", "yes", "null", "'", '"', "é漢🎬", "*" * 300,
]  # fmt: skip


@pytest.mark.parametrize("nasty", NASTY, ids=range(len(NASTY)))
def test_no_name_breaks_metadata_tables_or_code(nasty: str) -> None:
    facts = replace(
        FACTS, name=nasty, repo_id=f"ME/{nasty}", labels=[nasty, "b"], started_from=nasty, license=nasty, dataset=nasty,
        counts={"train": {nasty: 1, "b": 1}}, notes=[nasty], recipe={nasty: nasty}, unreadable=[nasty], code=nasty,
    )  # fmt: skip
    text, plain = (
        render_card(facts),
        render_card(
            replace(
                facts,
                **{key: getattr(FACTS, key) for key in CHANGED}
                | {"recipe": {"a": 1}, "unreadable": ["a"], "counts": {"train": FACTS.counts["train"]}},
            )
        ),
    )
    assert ModelCard(text).data.license == nasty
    assert yaml.safe_load(text.removeprefix("---\n").partition("\n---\n")[0])["model-index"][0]["name"] == nasty
    body, expected = (card.partition("\n---\n\n# ")[2].splitlines() for card in (text, plain))
    assert len(body) == len(expected), "a name makes no line"
    assert [line.count("```") for line in body] == [line.count("```") for line in expected]
    cells = [re.sub(r"\\.", "", line).count("|") for line in body]
    assert cells == [re.sub(r"\\.", "", line).count("|") for line in expected], "a name makes no cell"
    assert all(char.isprintable() for line in body for char in line)
    assert not re.search(r"(?<!\\)<(script|!--)", re.sub(r"`[^`]*`", "", "\n".join(body)))


def test_frames_of_videos_are_shown_only_when_that_was_asked() -> None:
    assert "predictions.png" not in render_card(FACTS)
    assert "](predictions.png)" in render_card(replace(FACTS, examples=True))


def test_a_model_that_transformers_alone_gets_wrong_says_so_and_how_it_works() -> None:
    assert "pipeline" in render_card(FACTS) and "load_checkpoint" not in render_card(FACTS)
    text = render_card(replace(FACTS, is_plain=False, attention_type="axial"))
    assert 'model, processor = load_checkpoint("me/skate")' in text
    assert "its TimeSformer does not compute axial attention" in text
    assert 'pipeline("video-classification", model="me/skate")' not in text


def test_without_an_evaluation_the_card_says_so() -> None:
    text = render_card(replace(FACTS, metrics={}, per_class={}))
    assert "It was not evaluated" in text
    data = ModelCard(text).data
    assert data.eval_results is None and data.metrics is None


@pytest.mark.parametrize(
    ("text", "expected"), [("plain name", "plain name"), ("a_b|c", "a\\_b\\|c"), ("two\nlines\x1b", "two lines ")]
)
def test_markdown_text(text: str, expected: str) -> None:
    assert as_markdown_text(text) == expected
