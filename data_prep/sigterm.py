"""SIGTERM, as batch schedulers send it to a command that can go on later: the first one is noted, or ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# A scheduler signals every process, and a launcher passes its own signal on: both are one request to stop.
ONE_STOP_SECONDS = 2.0

_LAUNCHED_BY = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")  # which a launcher sets for its processes
_POLL_SECONDS = 0.5

_process = 0  # for which SIGTERM is handled here; forks of it have other ways
_told: float | None = None  # when the first SIGTERM came
_react: Callable[[], None] | None = None  # to the first SIGTERM; where None it waits for the next `on_sigterm`


class Interrupted(BaseException):
    """A command was told to stop, and the same command goes on. It ends with EX_TEMPFAIL of sysexits.h: try again.

    No `Exception`, because it may come at any line: libraries that catch those must not swallow it.
    """

    exit_code = 75


def listen() -> None:
    """From here on the first SIGTERM is noted, for `on_sigterm`; another one ends the process.

    For the first lines of a command, before imports that take seconds. `accelerate launch` does not pass a signal on:
    its end is one.
    """
    global _process
    _process = os.getpid()
    signal.signal(signal.SIGTERM, _answer)
    if any(name in os.environ for name in _LAUNCHED_BY):
        threading.Thread(target=_watch_launcher, args=(os.getppid(),), daemon=True).start()


def is_listening() -> bool:
    return signal.getsignal(signal.SIGTERM) is _answer


@contextmanager
def on_sigterm(react: Callable[[], None]) -> Iterator[None]:
    """The first SIGTERM calls `react`, also one that was noted before; another one ends the process.

    In the midst of another `on_sigterm` it replaces its reaction, which follows at the end where the signal came in
    between. Does nothing outside the main thread, which alone can be told.
    """
    global _react, _told, _process
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_first, outer = not is_listening(), _react
    _process = os.getpid()
    before = signal.signal(signal.SIGTERM, _answer)
    try:
        _react = react
        if _told is not None:
            react()
        yield
        if _told is not None:  # it came where this one only noted it, or where what it raised was lost
            (outer or react)()
    finally:
        _react = outer
        if is_first:
            _told = None
            signal.signal(signal.SIGTERM, before)


def _answer(*_: Any) -> None:
    global _told
    if os.getpid() != _process:  # a fork that has not begun its own work
        os._exit(128 + signal.SIGTERM)
    if _told is None:
        _told = time.monotonic()
        if _react is not None:
            _react()
    elif time.monotonic() - _told > ONE_STOP_SECONDS:
        sys.exit(128 + signal.SIGTERM)


def _watch_launcher(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_POLL_SECONDS)
    if _told is None:
        os.kill(os.getpid(), signal.SIGTERM)
