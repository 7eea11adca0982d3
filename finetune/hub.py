"""What is uploaded, and an upload that may be repeated: python -m finetune.hub push OUT me/name"""

from __future__ import annotations

import sys
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from data_prep.errors import CommandLine, UserError, exit_cleanly
from data_prep.patience import HUB_ERRORS, patiently, reason, status

# Everything else in a run's folder stays home: checkpoints, optimizer state, logs, predictions, training_args.bin
# (a pickle). Pictures with frames of videos go only where the card shows them.
PUSHED_FILES = [
    "README.md", "config.json", "model*.safetensors", "model.safetensors.index.json",
    "video_preprocessor_config.json", "metrics.json", "recipe.yaml",
    "curves.png", "confusion_matrix.png",
]  # fmt: skip
_NEEDED_FILES = ("README.md", "config.json", "video_preprocessor_config.json")


def push(folder: Path, repo_id: str, private: bool | None = None) -> str:
    """Uploads a finished run and returns its address. Repeating it sends only what changed. Raises `UserError`."""
    lacking = [name for name in _NEEDED_FILES if not (folder / name).is_file()]
    if lacking:
        raise UserError(f"{folder} is not a finished run: {lacking[0]} is missing.")
    shown = ["predictions.png"] if "](predictions.png)" in (folder / "README.md").read_text(encoding="utf-8") else []
    api = HfApi()
    try:
        url = patiently(lambda: api.create_repo(repo_id, private=private, exist_ok=True))
        patiently(
            lambda: api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                allow_patterns=[*PUSHED_FILES, *shown],
                commit_message="Upload fine-tuned TimeSformer",
            )
        )
    except HUB_ERRORS as error:
        raise UserError(
            f"the Hub refused or broke off the upload of {folder} to {repo_id} ({reason(error)}). Nothing is lost: "
            f"the run is in {folder}. When it is mended: python -m finetune.hub push {folder} {repo_id}"
        ) from error
    return str(url)


def check_login() -> None:
    """Raises `UserError` when the Hub says that the token is missing or wrong; a Hub out of reach is no reason to stop."""
    try:
        HfApi().whoami()
    except HfHubHTTPError as error:
        if status(error) in (401, 403):
            raise UserError("--push_to_hub: the Hub does not accept the token. Run `hf auth login`, or set HF_TOKEN.") from error  # fmt: skip
        print(
            f"warning: the Hub answers {reason(error)}; training goes on, the push is tried at the end",
            file=sys.stderr,
        )
    except HUB_ERRORS as error:
        if "token" in str(error).lower():  # LocalTokenNotFoundError
            raise UserError("--push_to_hub needs a token: run `hf auth login`, or set HF_TOKEN.") from error
        print(
            f"warning: the Hub is out of reach ({reason(error)}); training goes on, the push is tried at the end",
            file=sys.stderr,
        )


@exit_cleanly
def main(argv: list[str] | None = None) -> str:
    parser = CommandLine(prog="python -m finetune.hub", description="Share a finished run.")
    commands = parser.add_subparsers(dest="command", required=True)
    pushing = commands.add_parser("push", help="upload checkpoint, processor, card and pictures; may be repeated")
    pushing.add_argument("folder", type=Path, help="output_dir of a finished run")
    pushing.add_argument("repo_id", help="me/name")
    pushing.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    options = parser.parse_args(argv)
    url = push(options.folder, options.repo_id, options.private)
    print(f"pushed {options.folder} to {url}")
    return url


if __name__ == "__main__":
    sys.exit(main())
