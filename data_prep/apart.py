"""Talks with the Hub in a process of their own, which is ended when it takes too long: the client waits for ever for a Hub
whose answer comes in drops.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from data_prep.child import ending_with_us
from data_prep.errors import UserError, printable
from data_prep.lock import only_push
from data_prep.patience import reason

LIMIT_MINUTES = 60.0
_NOT_TEXT = (".png", ".safetensors", ".parquet")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{30,}")


@dataclass(frozen=True)
class Upload:
    """Files of a folder, and where they go. `outdated` are patterns of files to delete there unless they are sent."""

    folder: Path
    names: list[str]
    repo_id: str
    repo_type: str  # model, dataset or space
    private: bool | None = None  # a new repository
    outdated: list[str] = field(default_factory=list)


def check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} cannot be a repository of the Hub: {reason(error)}. Give me/name.") from error


def check_nothing_private(folder: Path, names: list[str]) -> None:
    """Raises `UserError` when a file to be uploaded holds a token, or a path of this machine."""
    home = f"{Path.home()}/"
    token = get_token()
    for name in names:
        if name.endswith(_NOT_TEXT):
            continue
        text = (folder / name).read_text(encoding="utf-8", errors="replace")
        held = {
            "the Hub's token": token and token in text,
            "what looks like a token of the Hub": _TOKEN.search(text),
            "a path of your home folder": len(home) > 2 and home in text,
        }
        for what in (what for what, is_held in held.items() if is_held):
            raise UserError(f"{folder / name} holds {what}: it is not pushed. Take that out and push again.")


@contextmanager
def telling_how_to_go_on(saved: Path, repo_id: str, again: str) -> Iterator[None]:
    """A line on stderr where a push is stopped: all is in `saved`, and `again` goes on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        print(f"stopped before {saved} was pushed to {repo_id}. Nothing is lost: go on with {again}", file=sys.stderr)
        raise


def upload_apart(upload: Upload, saved: Path, limit_minutes: float, again: str) -> str:
    """Uploads and returns the address. Raises `UserError`, which says that all is in `saved` and how to go on: `again`."""
    with only_push(upload.repo_type, upload.repo_id, again):
        return _upload(upload, saved, limit_minutes, again)


def _upload(upload: Upload, saved: Path, limit_minutes: float, again: str) -> str:
    command = [sys.executable, "-m", "data_prep.upload", str(upload.folder), upload.repo_id]
    command += ["--repo_type", upload.repo_type, *(["--private"] if upload.private else [])]
    command += ["--names", *upload.names, "--outdated", *upload.outdated]
    until = time.monotonic() + 60 * limit_minutes
    answer = ask_apart(command, until)
    if "xet" in str(answer.get("error")).lower():  # the client has no other way to a Hub that does not speak Xet
        answer = ask_apart(command, until, HF_HUB_DISABLE_XET="1")
    if answer.get("late"):
        answer = {"error": f"it took longer than {limit_minutes:g} minutes"}
    if "url" not in answer:
        raise UserError(
            f"the Hub refused or broke off the upload of {saved} to {upload.repo_id} ({printable(str(answer.get('error')))}). "
            f"Nothing is lost: everything is in {saved}. When it is mended: {again}"
        )
    return str(answer["url"])


def ask_apart(command: list[str], until: float, **environment: str) -> dict[str, Any]:
    """The JSON object that a command prints last; its progress goes to our stderr. {"late": True} where it has not
    ended at `until`, on `time.monotonic()`'s clock, and {"error": text} where it prints none.
    """
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            ending_with_us(command), env={**os.environ, "PYTHONPATH": path, **environment}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, text=True, timeout=max(0, until - time.monotonic()), check=False,
            start_new_session=True,  # Ctrl-C is for this process, which ends that one
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"late": True}
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        answer = None
    return answer if isinstance(answer, dict) else {"error": f"its process ended with exit code {done.returncode}"}
