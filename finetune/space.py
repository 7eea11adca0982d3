"""A small Gradio app for a checkpoint: python -m finetune.space OUT|me/model --output DIR [--push me/space]

It runs where DIR is (`python DIR/app.py`, with the extra `demo`) and on a Space of the Hub, and needs nothing of this
project: plain transformers, PyAV, and the checkpoint, which is copied into DIR or named by its Hub id.
"""

from __future__ import annotations

import sys

from data_prep.sigterm import interruptible

if __name__ == "__main__":
    interruptible()  # before what takes seconds to import

import argparse
import filecmp
import platform
import shlex
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torchvision
import transformers
import yaml

from data_prep.apart import (
    LIMIT_MINUTES,
    Upload,
    check_nothing_private,
    check_repo_id,
    telling_how_to_go_on,
    upload_apart,
)
from data_prep.errors import CommandLine, UserError, exit_cleanly
from data_prep.lock import only_writer
from data_prep.store import whole_directory
from finetune.clips.sampling import Sampling
from finetune.hub import check_finished, pushed_files
from finetune.model.modeling import MULTI_LABEL, is_plain
from finetune.model.weights import load_checkpoint
from finetune.results.templates import environment, read_clip_code
from finetune.sharing.contract import check

GRADIO_VERSION = "6.31.0"  # what the app was tried with
_MODEL_FILES = (".safetensors", ".index.json", "config.json")
_COLUMNS = 8  # of frames side by side


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(prog="python -m finetune.space", description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="output_dir of a finished run, or me/model on the Hub")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="new folder the app is written to; one that this command wrote before is left as it is",
    )
    parser.add_argument(
        "--push",
        metavar="me/space",
        help="also upload it as a Space; the same command goes on with an upload that failed",
    )
    parser.add_argument("--private", action="store_true", default=None, help="make a new Space private")
    options = parser.parse_args(argv)
    if options.push:
        check_repo_id(options.push)
    with only_writer(("--output", options.output)):
        make_space(options)


def make_space(options: argparse.Namespace) -> None:
    names = write_space(options.model, options.output)
    print(f"{options.output} is written: try it with `python {options.output}/app.py` (pip install -e '.[demo]')")
    if options.push:
        check_nothing_private(options.output, names)
        words = [
            "python",
            "-m",
            "finetune.space",
            options.model,
            "--output",
            str(options.output),
            "--push",
            options.push,
        ]
        again = shlex.join(words + (["--private"] if options.private else []))
        upload = Upload(options.output, names, options.push, "space", options.private, outdated=["model/*"])
        with telling_how_to_go_on(options.output, options.push, again):
            print(f"pushed to {upload_apart(upload, options.output, LIMIT_MINUTES, again)}")


def write_space(name: str, directory: Path) -> list[str]:
    """The app for a checkpoint, whole or not at all; what was written before stays. Returns the names of its files.

    Raises `UserError`, also where `directory` holds anything else under those names.
    """
    if directory.exists() and not (directory / "app.py").is_file():  # before the checkpoint is tried
        raise UserError(f"--output {directory} exists: choose another, or delete it.")
    folder = Path(name) if Path(name).exists() else None
    if folder is not None:
        check_finished(folder)
        print(check(folder), flush=True)
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    else:
        config = load_checkpoint(name)[0].config
    if not is_plain(config):
        raise UserError(f"{name} needs this project's {config.attention_type} attention, which an app of plain transformers lacks.")  # fmt: skip
    texts, copied = app_files(name, folder is not None, config), {}
    if folder is not None:
        copied = {f"model/{file}": folder / file for file in pushed_files(folder) if file.endswith(_MODEL_FILES)}
    if directory.exists():
        check_same(directory, texts, copied)
        return [*texts, *copied]
    with whole_directory(directory) as place:
        for path, text in texts.items():
            (place / path).write_bytes(text.encode())
        for path, source in copied.items():
            (place / path).parent.mkdir(exist_ok=True)
            shutil.copy(source, place / path)
    return [*texts, *copied]


def check_same(directory: Path, texts: dict[str, str], copied: dict[str, Path]) -> None:
    """Raises `UserError` where a file is not what would be written there."""
    for path in (*texts, *copied):
        file = directory / path
        if path in copied:
            same = file.is_file() and filecmp.cmp(file, copied[path], shallow=False)
        else:
            same = file.is_file() and file.read_bytes() == texts[path].encode()
        if not same:
            raise UserError(
                f"--output {directory} exists, and its {path} is not what this command writes: choose another, or delete it. "
                f"An app that you have changed goes to the Hub with `hf upload me/space {directory} . --repo-type space`."
            )


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
