"""The one exception a user may cause, and how every command reads its line and ends."""

from __future__ import annotations

import argparse
import errno
import functools
import io
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from data_prep.sigterm import Interrupted, at_work, is_listening, tell_interrupted, was_interrupted

_CHILDREN_SECONDS = 2.0  # to end when they are told to


class UserError(Exception):
    """Wrong usage or input. The message says what was got, what was expected, and what to do."""

    exit_code = 2


# Errors of the system that a user can mend: full disk, permissions, unusable names.
_NOT_OUR_FAULT = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR,
}  # fmt: skip


class CommandLine(argparse.ArgumentParser):
    """argparse, with its errors as ours: one line instead of the whole usage; and every number is finite."""

    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        parsed = super().parse_known_args(*args, **kwargs)
        check_finite(vars(parsed[0]))
        return parsed

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. {self.prog} --help explains every argument.")


def check_finite(settings: Mapping[str, Any]) -> None:
    """Raise `UserError` for a setting that is, or holds, NaN or an infinite number."""
    for name, value in settings.items():
        for number in _floats(value):
            if not math.isfinite(number):
                raise UserError(f"--{name} is {number}, expected a finite number.")


def _floats(value: Any) -> Iterator[float]:
    """A value that is a float, or the floats that a list or dictionary holds."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _floats(item)


def exit_cleanly(main: Callable[..., Any]) -> Callable[..., int]:
    """Wraps `main` for the shell: 0 when it returns, 2 and one line on stderr for a `UserError`.

    So do a full disk and a missing permission. Any other exception passes through with its traceback: it is a bug of
    ours. A SIGTERM, as batch schedulers send it, unwinds like an exit, so that nothing half-written stays; a command that
    can go on later ends with 75 (`data_prep.sigterm`), and Ctrl-C ends with 130. No process that it started outlives it.
    """

    @functools.wraps(main)
    def command(*args: Any, **kwargs: Any) -> int:
        if threading.current_thread() is threading.main_thread() and not is_listening():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        for stream in (sys.stdout, sys.stderr):  # a label must not fail a run because a terminal cannot show it
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            with at_work():
                main(*args, **kwargs)
                sys.stdout.flush()
        except BrokenPipeError:  # whoever read our output has enough; what is left in the buffer goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except KeyboardInterrupt:
            tell_interrupted()
            return 130
        except (Exception, Interrupted) as error:
            return _tell(error)
        finally:
            _end_children()
        return 0

    return command


def _tell(error: Exception | Interrupted) -> int:
    """Say what ended a command. Returns its exit code, and raises a bug of ours again."""
    if was_interrupted():  # of which the error comes
        tell_interrupted()
        return 130
    if not isinstance(error, (UserError, OSError, Interrupted)):
        raise error
    if isinstance(error, OSError) and error.errno not in _NOT_OUR_FAULT:
        raise error
    # Every process of a distributed run meets the same error: one of them says it.
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {_message(error)}", file=sys.stderr, flush=True)
    _tell_launcher(_message(error))
    return 2 if isinstance(error, OSError) else error.exit_code


def leave(code: int) -> NoReturn:
    """End this process with an exit code; one of several at once, without Python's own end.

    There threads of torch's process groups may abort it, after all work is done, and the launcher then ends the others.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _end_children() -> None:
    """End the processes that read for this one: an error may leave them at work, and at exit Python waits for each."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    deadline = time.monotonic() + _CHILDREN_SECONDS
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))
    children = [child for child in children if child.is_alive()]
    if children:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes this for an error of its own
        for child in children:
            child.kill()
            child.join(_CHILDREN_SECONDS)


def _message(error: UserError | OSError | Interrupted) -> str:
    """The error's own line: from a loader's worker, torch passes it on with the worker's traceback around it."""
    if isinstance(error, OSError):
        return printable(f"{error.strerror}: {error.filename or 'while writing'}")
    text = str(error).strip()
    if "Original Traceback" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return printable(text)


def printable(text: str) -> str:
    """Control characters and bytes that are not UTF-8 as escapes: a file name must not steer the terminal."""
    escaped = (char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text)
    return "".join(escaped)


def _tell_launcher(message: str) -> None:
    """accelerate's and torch's launchers end with a report of their own, and take its reason from this file."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        reason = {"message": f"error: {message}", "timestamp": int(time.time())}
        Path(path).write_text(json.dumps(reason, allow_nan=False), encoding="utf-8")
