"""A small Gradio app for a checkpoint: python -m finetune.space OUT|me/model --output DIR [--push me/space]

It runs where DIR is (`python DIR/app.py`, with the extra `demo`) and on a Space of the Hub, and needs nothing of this
project: plain transformers, PyAV, and the checkpoint, which is copied into DIR or named by its Hub id.
"""

from __future__ import annotations

import platform
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torchvision
import transformers
import yaml

from data_prep.errors import CommandLine, UserError, exit_cleanly
from data_prep.store import whole_directory
from finetune.card import environment, read_clip_code
from finetune.contract import check
from finetune.hub import LIMIT_MINUTES, check_finished, check_repo_id, upload_apart
from finetune.modeling import MULTI_LABEL, is_plain
from finetune.sampling import Sampling
from finetune.upload import pushed_files
from finetune.weights import load_checkpoint

GRADIO_VERSION = "6.31.0"  # what the app was tried with
_MODEL_FILES = (".safetensors", ".index.json", "config.json")
_COLUMNS = 8  # of frames side by side


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(prog="python -m finetune.space", description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="output_dir of a finished run, or me/model on the Hub")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new folder the app is written to")
    parser.add_argument("--push", metavar="me/space", help="also upload it as a Space")
    parser.add_argument("--private", action="store_true", default=None, help="make a new Space private")
    options = parser.parse_args(argv)
    if options.push:
        check_repo_id(options.push)
    write_space(options.model, options.output)
    print(f"wrote {options.output}: try it with `python {options.output}/app.py` (pip install -e '.[demo]')")
    if options.push:
        words = ["python", "-m", "finetune.space", options.model, "--output", "NEW_DIR", "--push", options.push]
        again = shlex.join(words + (["--private"] if options.private else []))
        url = upload_apart(options.output, options.push, "space", options.private, LIMIT_MINUTES, again)
        print(f"pushed to {url}")


def write_space(name: str, directory: Path) -> None:
    """The app for a checkpoint, whole or not at all. Raises `UserError`."""
    if directory.exists():
        raise UserError(f"--output {directory} exists: choose another, or delete it.")
    folder = Path(name) if Path(name).exists() else None
    if folder is not None:
        check_finished(folder)
        print(check(folder), flush=True)
        config = transformers.AutoConfig.from_pretrained(folder)
    else:
        config = load_checkpoint(name)[0].config
    if not is_plain(config):
        raise UserError(f"{name} needs this project's {config.attention_type} attention, which an app of plain transformers lacks.")  # fmt: skip
    with whole_directory(directory) as place:
        for path, text in app_files(name, folder is not None, config).items():
            (place / path).write_text(text, encoding="utf-8")
        if folder is not None:
            (place / "model").mkdir()
            for file in pushed_files(folder):
                if file.endswith(_MODEL_FILES):
                    shutil.copy(folder / file, place / "model")


def app_files(name: str, is_local: bool, config: Any) -> dict[str, str]:
    """Name and text of each file but the checkpoint's."""
    title = Path(name).resolve().name if is_local else name.rpartition("/")[2]
    app = environment().get_template("space_app.py.jinja").render(
        model_id=None if is_local else name,
        title=title,
        num_labels=config.num_labels,
        num_frames=config.num_frames,
        columns=min(_COLUMNS, config.num_frames),
        height=60 + 120 * -(-config.num_frames // _COLUMNS),  # px
        is_multi_label=config.problem_type == MULTI_LABEL,
        read_clip=read_clip_code(Sampling.read_from(config), config.num_frames).partition("\n\n\n")[2],
    )  # fmt: skip
    front = {
        "title": title,
        "sdk": "gradio",
        "sdk_version": GRADIO_VERSION,
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "app_file": "app.py",
        "pinned": False,
        **({} if is_local else {"models": [name]}),
    }
    readme = f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\nUpload or record a video; see app.py.\n"
    pins = "".join(
        f"{module.__name__}=={module.__version__.partition('+')[0]}\n"
        for module in (torch, torchvision, transformers, av, np)
    )
    return {"app.py": app, "README.md": readme, "requirements.txt": pins}


if __name__ == "__main__":
    sys.exit(main())
