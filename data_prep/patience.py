"""Calls to the Hub that are tried again while the fault may pass; the client does not retry a creation or a commit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from huggingface_hub import HfApi, RepoUrl, get_token, set_client_factory
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import get_session

from data_prep.errors import UserError

try:
    from huggingface_hub.utils import httpx  # 2.x speaks through httpx2, and names it httpx here
except ImportError:  # 1.x
    import httpx  # type: ignore[no-redef]

_WAITS_SECONDS = (1, 4, 16)
_SILENCE_SECONDS = 90  # a large commit takes the Hub a while
_PASSING = {408, 409, 412, 425, 429}  # too slow, too early, too many, or another commit came in between

T = TypeVar("T")


def patiently(call: Callable[[], T]) -> T:
    """The call's result. Raises its last error when the fault stays, and a refusal at once.

    A page in place of JSON, or JSON of another form, the client raises as whatever it stumbles over.
    """
    for wait in _WAITS_SECONDS:
        try:
            return call()
        except Exception as error:
            if not _may_pass(error):
                raise
            time.sleep(wait)
    return call()


def make_repository(
    api: HfApi, repo_id: str, repo_type: str, private: bool | None, space_sdk: str | None = None
) -> RepoUrl:
    """The repository, made where there is none. Raises `UserError` where one that is there shows what is to be private."""
    repo = patiently(
        lambda: api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=space_sdk)
    )
    if private and not patiently(lambda: api.repo_info(repo.repo_id, repo_type=repo_type)).private:
        raise UserError(f"{repo_id} is there already and public, expected private: make it private on the Hub, choose another name, or push in public")  # fmt: skip
    return repo


def _may_pass(error: Exception) -> bool:
    """A server's fault, too many requests, or a broken connection; not a refusal, nor what is amiss here."""
    if isinstance(error, (UserError, HFValidationError, LocalTokenNotFoundError, FileNotFoundError, PermissionError)):
        return False
    code = status(error)
    return code is None or code >= 500 or code in _PASSING


def tire_of_silence(seconds: float = _SILENCE_SECONDS) -> None:
    """From here on a connection to the Hub on which nothing comes for so long is broken off; the client waits for ever."""
    hooks = get_session().event_hooks
    set_client_factory(lambda: httpx.Client(event_hooks=hooks, follow_redirects=True, timeout=seconds))


def status(error: Any) -> int | None:
    """The HTTP status that an error came with, if any."""
    return getattr(getattr(error, "response", None), "status_code", None)


def reason(error: Exception) -> str:
    """One line that says what happened, without the token, which the client quotes where it cannot be sent."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("(Request ID")]
    code = status(error)
    told = " ".join(lines[:2]) if code else (lines or [""])[0]
    shown = code and str(code) not in told
    token = get_token()
    told = told.replace(token, "(the token)") if token else told
    return f"{type(error).__name__}: {f'{code} ' if shown else ''}{told}"
