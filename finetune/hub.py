"""A finished run goes to the Hub: checked before the first byte, and an upload that may be repeated.

python -m finetune.hub push OUT me/name        python -m finetune.hub check OUT [VIDEO ...]
"""

from __future__ import annotations

import sys

from data_prep.sigterm import interruptible

if __name__ == "__main__":
    interruptible()  # before what takes seconds to import

import fnmatch
import shlex
from pathlib import Path

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
from finetune.sharing.contract import Clips, check, clip_of

_NEEDED_FILES = ("README.md", "config.json", "video_preprocessor_config.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
# Everything else in a run's folder stays home: checkpoints, optimizer state, logs, predictions, training_args.bin
# (a pickle). Pictures with frames of videos go only where the card shows them.
PUSHED_FILES = [
    "README.md", "config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json",
    "video_preprocessor_config.json", "metrics.json", "recipe.yaml",
    "curves.png", "confusion_matrix.png", "per_class.png",
]  # fmt: skip
PICTURE_OF_VIDEOS = "predictions.png"


def push(
    folder: Path,
    repo_id: str,
    private: bool | None = None,
    given: Clips | None = None,
    limit_minutes: float = LIMIT_MINUTES,
) -> str:
    """Checks a finished run, uploads it and returns its address. Repeating it sends only what changed.

    Raises `UserError`, before anything is sent where the run is not whole, private or not what it promises.
    """
    check_repo_id(repo_id)
    check_finished(folder)
    names = pushed_files(folder)
    check_nothing_private(folder, names)
    again = shlex.join(
        ["python", "-m", "finetune.hub", "push", str(folder), repo_id, *(["--private"] if private else [])]
    )
    with telling_how_to_go_on(folder, repo_id, again):
        try:
            print(check(folder, given), flush=True)
        except UserError as error:
            raise UserError(f"{error} When that is mended: {again}") from error
        upload = Upload(folder, names, repo_id, "model", private, outdated=[*PUSHED_FILES, PICTURE_OF_VIDEOS])
        return upload_apart(upload, folder, limit_minutes, again)


def check_finished(folder: Path) -> None:
    lacking = [name for name in _NEEDED_FILES if not (folder / name).is_file()]
    if not lacking and not any((folder / name).is_file() for name in _WEIGHTS):
        lacking = [_WEIGHTS[0]]
    if lacking:
        raise UserError(f"{folder} is not a finished run: {lacking[0]} is missing.")


def pushed_files(folder: Path) -> list[str]:
    """Names of the files of a run that are uploaded, sorted."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    pushed = {name for name in names for pattern in PUSHED_FILES if fnmatch.fnmatchcase(name, pattern)}
    shown = f"]({PICTURE_OF_VIDEOS})" in (folder / "README.md").read_text(encoding="utf-8")
    return sorted(pushed | ({PICTURE_OF_VIDEOS} & set(names) if shown else set()))


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(prog="python -m finetune.hub", description="Check and share a finished run.")
    commands = parser.add_subparsers(dest="command", required=True)
    pushing = commands.add_parser("push", help="check, then upload checkpoint, processor, card and pictures; may be repeated")  # fmt: skip
    pushing.add_argument("folder", type=Path, help="output_dir of a finished run")
    pushing.add_argument("repo_id", help="me/name")
    pushing.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    pushing.add_argument("--limit_minutes", type=float, default=LIMIT_MINUTES, help="give the upload up after this time (default: 60)")  # fmt: skip
    checking = commands.add_parser("check", help="load it with plain transformers in a process of its own, and compare predictions")  # fmt: skip
    checking.add_argument("folder", type=Path, help="output_dir of a finished run")
    checking.add_argument("videos", nargs="*", metavar="VIDEO", help="videos to compare on (default: drawn clips)")
    options = parser.parse_args(argv)
    if options.command == "check":
        check_finished(options.folder)
        clips = [clip_of(video, options.folder) for video in options.videos]
        print(check(options.folder, Clips(clips) if clips else None))
    else:
        with only_writer(("folder", options.folder)):
            url = push(options.folder, options.repo_id, options.private, limit_minutes=options.limit_minutes)
        print(f"pushed {options.folder} to {url}")


if __name__ == "__main__":
    sys.exit(main())
