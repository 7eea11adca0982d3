"""Publishes a dataset on the Hub: Parquet files with the videos in them, and a card that says what is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, HfApi

from data_prep.errors import UserError, printable
from data_prep.patience import HUB_ERRORS, make_repository, patiently, reason, tire_of_silence
from data_prep.store import open_dataset

_SHOWN_CLASSES = 100
_XET_HINT = "; where the Hub does not speak Xet, with HF_HUB_DISABLE_XET=1 before it"


def publish(directory: Path, repo_id: str, private: bool, summary: dict[str, Any]) -> None:
    """Uploads the dataset that data_prep wrote in `directory`. Raises `UserError`; what is on disk stays.

    A file of the machine is named by its last part only; `video_id` tells it from others.
    """
    if not (directory / "dataset_dict.json").is_file():
        raise UserError(f"--push_to_hub: {directory} is not on this disk. Prepare it to a directory first.")
    dataset = open_dataset(directory)
    if "train" in dataset:  # who streams it mixes only neighbours, which are of one class on disk
        dataset["train"] = dataset["train"].shuffle(seed=0)
    tire_of_silence()
    api = HfApi()
    try:
        make_repository(api, repo_id, "dataset", private)
        patiently(lambda: dataset.push_to_hub(repo_id, embed_external_files=True))
        card = patiently(
            lambda: DatasetCard.load(repo_id)
        )  # with the columns and files that push_to_hub has written there
        card.text = card_text(repo_id, summary)
        card.data.task_categories = ["video-classification"]
        card.data.tags = ["video"]
        patiently(
            lambda: api.upload_file(
                path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id=repo_id, repo_type="dataset",
                commit_message="Say what is in the dataset",
            )
        )  # fmt: skip
    except HUB_ERRORS as error:
        raise UserError(
            f"the Hub refused or broke off the upload of {directory} to {repo_id} ({printable(reason(error))}). Nothing is lost: "
            f"the dataset is on disk, and the same command tries again{_XET_HINT if 'xet' in str(error).lower() else ''}."
        ) from error
    print(f"published {directory} as {repo_id}{' (private)' if private else ''}")


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
