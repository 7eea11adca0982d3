"""The card of a published dataset: what the Hub reads, then what people read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, Features
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from data_prep.errors import printable
from data_prep.patience import patiently

_SHOWN_CLASSES = 100


def render_card(repo_id: str, summary: dict[str, Any], features: Features, splits: list[str]) -> str:
    """README.md: columns and files as YAML, then `card_text`."""
    files = [{"split": split, "path": f"data/{split}-*"} for split in splits]
    data = DatasetCardData(
        task_categories=["video-classification"],
        tags=["video"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    DatasetInfosDict({"default": DatasetInfo(features=features)}).to_dataset_card_data(data)
    return f"---\n{data.to_yaml()}\n---\n\n{card_text(repo_id, summary)}"


def keep_metadata(api: HfApi, card: Path, repo_id: str) -> None:
    """Adds to a card what somebody has written into the metadata of the one on the Hub, as its license."""
    if not patiently(lambda: api.file_exists(repo_id, card.name, repo_type="dataset")):
        return
    theirs = DatasetCard.load(Path(patiently(lambda: api.hf_hub_download(repo_id, card.name, repo_type="dataset"))))
    ours = DatasetCard.load(card)
    for key, value in theirs.data.to_dict().items():
        if ours.data.get(key) is None:
            ours.data[key] = value
    ours.save(card)


def card_text(repo_id: str, summary: dict[str, Any]) -> str:
    """The card in Markdown: classes and splits, how they were made, what was left out, how to load it."""
    splits = list(summary["videos"])
    labels = list(next(iter(summary["videos"].values())))
    table = [f"| class | {' | '.join(splits)} |", "|---" * (len(splits) + 1) + "|"]
    for label in labels[:_SHOWN_CLASSES]:
        counts = " | ".join(str(summary["videos"][split][label]) for split in splits)
        table.append(f"| {_plain(label)} | {counts} |")
    if len(labels) > _SHOWN_CLASSES:
        table.append(f"| {len(labels) - _SHOWN_CLASSES} more | {' | '.join('' for _ in splits)} |")
    table.append(f"| all videos | {' | '.join(str(summary['splits'][split]) for split in splits)} |")
    hours = sum(sum(one.values()) for one in summary["hours"].values())
    notes = [f"- {_plain(note)}" for note in summary["notes"]]
    return "\n".join(
        [
            f"# {repo_id.partition('/')[2] or repo_id}",
            "",
            f"{summary['accepted']} videos of {len(labels)} classes, {hours:.2f} hours; store `{summary['store']}`. "
            f"{summary['rejected']} videos or lines could not be used and are not in it.",
            "",
            *table,
            "",
            f"Splits: seed {summary['seed']}, {summary['groups']} groups whose videos share a split.",
            "",
            *(["## Notes", "", *notes, ""] if notes else []),
            "## Use",
            "",
            "```python",
            "from datasets import load_dataset",
            "",
            f'dataset = load_dataset("{repo_id}")  # or streaming=True',
            "```",
            "",
            "`video` holds a file's bytes, or `frames` JPEGs in order; `num_frames`, `fps`, `duration`, `height` and `width` were "
            "measured by decoding. Videos of one `group` never lie in two splits.",
            "",
        ]
    )


def _plain(text: str) -> str:
    """A label or note that somebody else chose, without meaning in Markdown or HTML."""
    return (
        re.sub(r"([\\`*_{}\[\]()#+!|<>~$&])", r"\\\1", printable(text)).replace("\\<", "&lt;").replace("\\&", "&amp;")
    )
