"""The templates of model_cards/, and what keeps a fact from breaking the text it stands in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2

from finetune.clips.sampling import Sampling

_TEMPLATES = Path(__file__).parents[2] / "model_cards"


def environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    made.filters |= {"text": as_markdown_text, "code": as_code, "repo": as_repo_id, "duration": as_duration}
    return made


def read_clip_code(sampling: Sampling, num_frames: int) -> str:
    """Python that reads the clip a model is shown with PyAV and numpy alone: `read_clip(path)`."""
    return environment().get_template("read_clip.py.jinja").render(sampling=sampling, num_frames=num_frames)


def as_markdown_text(text: Any) -> str:
    """`text` as it reads, in Markdown: no control characters, and every character with a meaning escaped."""
    plain = "".join(char if char.isprintable() else " " for char in str(text))
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&$-])", r"\\\1", plain)


def as_duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} seconds" if seconds < 60 else f"{seconds / 60:.1f} minutes"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


def as_repo_id(text: Any) -> str:
    """`text` where code names a repository: nothing that could end a string or a code block."""
    return re.sub(r"[^\w./-]", "-", str(text), flags=re.ASCII)


def as_code(text: Any) -> str:
    """`text` as code, in a Markdown table too: in backticks unless it holds what they, or a table's cell, would not keep."""
    plain = "".join(char if char.isprintable() else " " for char in str(text))
    return f"<code>{as_markdown_text(plain)}</code>" if re.search(r"[`|\\]", plain) else f"`{plain}`"
