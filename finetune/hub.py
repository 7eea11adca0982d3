"""What is uploaded, and an upload that may be repeated: python -m finetune.hub push OUT me/name"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

try:
    from huggingface_hub.utils import httpx  # 2.x speaks through httpx2, and names it httpx here
except ImportError:  # 1.x
    import httpx  # type: ignore[no-redef]

from data_prep.errors import CommandLine, UserError, exit_cleanly

# Everything else in a run's folder stays home: checkpoints, optimizer state, logs, predictions, training_args.bin
# (a pickle). Pictures with frames of videos go only where the card shows them.
PUSHED_FILES = [
    "README.md", "config.json", "model*.safetensors", "model.safetensors.index.json",
    "video_preprocessor_config.json", "metrics.json", "recipe.yaml",
    "curves.png", "confusion_matrix.png",
]  # fmt: skip
_NEEDED_FILES = ("README.md", "config.json", "video_preprocessor_config.json")
_WAITS_SECONDS = (1, 4, 16)

T = TypeVar("T")


def push(folder: Path, repo_id: str, private: bool | None = None) -> str:
    """Uploads a finished run and returns its address. Repeating it sends only what changed. Raises `UserError`.

    The Hub client does not retry the creation of a repository or a commit: this does.
    """
    lacking = [name for name in _NEEDED_FILES if not (folder / name).is_file()]
    if lacking:
        raise UserError(f"{folder} is not a finished run: {lacking[0]} is missing.")
    shown = ["predictions.png"] if "](predictions.png)" in (folder / "README.md").read_text(encoding="utf-8") else []
    api = HfApi()
    try:
        url = _patiently(lambda: api.create_repo(repo_id, private=private, exist_ok=True))
        _patiently(
            lambda: api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                allow_patterns=[*PUSHED_FILES, *shown],
                commit_message="Upload fine-tuned TimeSformer",
            )
        )
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise UserError(
            f"the Hub refused or broke off the upload of {folder} to {repo_id} ({_reason(error)}). Nothing is lost: "
            f"the run is in {folder}. When it is mended: python -m finetune.hub push {folder} {repo_id}"
        ) from error
    return str(url)


def check_login() -> None:
    """Raises `UserError` when the Hub says that the token is missing or wrong; a Hub out of reach is no reason to stop."""
    try:
        HfApi().whoami()
    except HfHubHTTPError as error:
        if _status(error) in (401, 403):
            raise UserError("--push_to_hub: the Hub does not accept the token. Run `hf auth login`, or set HF_TOKEN.") from error  # fmt: skip
        print(
            f"warning: the Hub answers {_reason(error)}; training goes on, the push is tried at the end",
            file=sys.stderr,
        )
    except (OSError, httpx.HTTPError) as error:
        if "token" in str(error).lower():  # LocalTokenNotFoundError
            raise UserError("--push_to_hub needs a token: run `hf auth login`, or set HF_TOKEN.") from error
        print(
            f"warning: the Hub is out of reach ({_reason(error)}); training goes on, the push is tried at the end",
            file=sys.stderr,
        )


def _patiently(call: Callable[[], T]) -> T:
    for wait in (*_WAITS_SECONDS, None):
        try:
            return call()
        except (OSError, httpx.HTTPError) as error:
            if wait is None or not _may_pass(error):
                raise
            time.sleep(wait)
    raise AssertionError("unreachable")


def _may_pass(error: Exception) -> bool:
    """A server's fault, too many requests, or a broken connection; not a refusal."""
    status = _status(error)
    return status is None or status >= 500 or status == 429


def _status(error: Any) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


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
