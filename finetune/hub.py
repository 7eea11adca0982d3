"""A finished run goes to the Hub: checked before the first byte, and an upload that may be repeated.

python -m finetune.hub push OUT me/name        python -m finetune.hub check OUT [VIDEO ...]
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import get_session, validate_repo_id

from data_prep.errors import CommandLine, UserError, exit_cleanly, printable
from data_prep.patience import HUB_ERRORS, reason, status
from finetune.contract import Clips, check, clip_of
from finetune.upload import pushed_files

_NEEDED_FILES = ("README.md", "config.json", "video_preprocessor_config.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_LOGIN_SECONDS = 20
LIMIT_MINUTES = 60.0


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
    check_nothing_private(folder)
    print(check(folder, given), flush=True)
    again = shlex.join(
        ["python", "-m", "finetune.hub", "push", str(folder), repo_id, *(["--private"] if private else [])]
    )
    return upload_apart(folder, repo_id, "model", private, limit_minutes, again)


def check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} cannot be a repository of the Hub: {reason(error)}. Give me/name.") from error


def check_finished(folder: Path) -> None:
    lacking = [name for name in _NEEDED_FILES if not (folder / name).is_file()]
    if not lacking and not any((folder / name).is_file() for name in _WEIGHTS):
        lacking = [_WEIGHTS[0]]
    if lacking:
        raise UserError(f"{folder} is not a finished run: {lacking[0]} is missing.")


def check_nothing_private(folder: Path) -> None:
    """Raises `UserError` when a file to be pushed holds the token, or a path of this machine."""
    home = str(Path.home())
    secrets = {"the Hub's token": get_token(), "a path of your home folder": f"{home}/" if len(home) > 1 else None}
    for name in pushed_files(folder):
        if name.endswith((".png", ".safetensors")):
            continue
        text = (folder / name).read_text(encoding="utf-8", errors="replace")
        for what, secret in secrets.items():
            if secret and secret in text:
                raise UserError(f"{folder / name} holds {what}: it is not pushed. Take that out and push again.")


def upload_apart(
    folder: Path, repo_id: str, repo_type: str, private: bool | None, limit_minutes: float, again: str
) -> str:
    """Uploads in a process of its own, which is given up after `limit_minutes`, and returns the address.

    Raises `UserError`, which says `again`, the command that tries again.
    """
    command = [sys.executable, "-m", "finetune.upload", str(folder), repo_id, "--repo_type", repo_type]
    command += ["--private"] if private else []
    answer = _answer(command, {}, limit_minutes)
    if "xet" in answer.get("error", "").lower():  # the client has no other way to a Hub that does not speak Xet
        answer = _answer(command, {"HF_HUB_DISABLE_XET": "1"}, limit_minutes)
    if "url" not in answer:
        raise UserError(
            f"the Hub refused or broke off the upload of {folder} to {repo_id} ({printable(answer['error'])}). Nothing is lost: "
            f"everything is in {folder}. When it is mended: {again}"
        )
    return str(answer["url"])


def _answer(command: list[str], environment: dict[str, str], limit_minutes: float) -> dict[str, Any]:
    """What finetune/upload.py says; its progress goes to our stderr."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, timeout=60 * limit_minutes, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it took longer than {limit_minutes:g} minutes"}
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": f"the upload ended with exit code {done.returncode}"}
    return answer


def check_login(repo_id: str) -> None:
    """Raises `UserError` when the Hub says that the token is missing, wrong or only reads; a Hub out of reach is no
    reason to stop.
    """
    check_repo_id(repo_id)
    session = get_session()
    patience, session.timeout = session.timeout, _LOGIN_SECONDS
    try:
        role = HfApi().whoami()["auth"]["accessToken"]["role"]
    except (KeyError, TypeError):  # some other server's idea of an answer: the push will tell
        return
    except HUB_ERRORS as error:
        if isinstance(error, HfHubHTTPError) and status(error) in (401, 403):
            raise UserError("--push_to_hub: the Hub does not accept the token. Run `hf auth login`, or set HF_TOKEN.") from error  # fmt: skip
        if "token" in str(error).lower():  # LocalTokenNotFoundError
            raise UserError("--push_to_hub needs a token: run `hf auth login`, or set HF_TOKEN.") from error
        print(f"warning: the Hub does not answer as it should ({reason(error)}); training goes on, the push is tried at the end", file=sys.stderr)  # fmt: skip
        return
    finally:
        session.timeout = patience
    if role == "read":
        raise UserError("--push_to_hub: the token may only read. Make one that may write, and run `hf auth login`.")


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
        url = push(options.folder, options.repo_id, options.private, limit_minutes=options.limit_minutes)
        print(f"pushed {options.folder} to {url}")


if __name__ == "__main__":
    sys.exit(main())
