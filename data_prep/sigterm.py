"""SIGTERM, as batch schedulers send it to a command that can go on later: the first one is noted, or ends it at once.

And SIGINT (Ctrl-C), which ends every command at once, with a line.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.child import ending_with_us

# A scheduler signals every process, and a launcher passes its own signal on: both are one request to stop.
ONE_STOP_SECONDS = 2.0

_LAUNCHED_BY = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")  # which a launcher sets for its processes
_POLL_SECONDS = 0.5

_process = 0  # for which signals are handled here; forks of it have other ways
_told: float | None = None  # when the first SIGTERM came
_react: Callable[[], None] | None = None  # to the first SIGTERM; where None it waits for the next `on_sigterm`
_interrupted: float | None = None  # when the first SIGINT came
_has_work = False  # between the imports and the end of a command: what it began has to be ended or removed


class Interrupted(BaseException):
    """A command was told to stop, and the same command goes on. It ends with EX_TEMPFAIL of sysexits.h: try again.

    No `Exception`, because it may come at any line: libraries that catch those must not swallow it.
    """

    exit_code = 75


def interruptible() -> None:
    """From here on SIGINT ends the command with one line and 130, in the midst of imports and at its very end too.

    For the first lines of a command, before imports that take seconds.
    """
    global _process
    _process = os.getpid()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored in the background of a shell's script
        signal.signal(signal.SIGINT, _interrupt)


def listen() -> None:
    """As `interruptible`, and the first SIGTERM is noted, for `on_sigterm`; another one ends the process.

    `accelerate launch` does not pass a signal on: its end is one.
    """
    interruptible()
    signal.signal(signal.SIGTERM, _answer)
    if any(name in os.environ for name in _LAUNCHED_BY):
        threading.Thread(target=_watch_launcher, args=(os.getppid(),), daemon=True).start()


def is_listening() -> bool:
    return signal.getsignal(signal.SIGTERM) is _answer


def was_interrupted() -> bool:
    return _interrupted is not None


def tell_interrupted() -> None:
    """In one process of a distributed run."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, b"interrupted\n")  # not by way of a buffer that the signal may have come upon


def run_to_end(command: Sequence[str | Path]) -> int:
    """Run a command and return its exit code. When this process is told to stop, by SIGINT too, it sends it SIGTERM."""
    with withheld(signal.SIGINT):
        process = subprocess.Popen(ending_with_us(command, signal.SIGTERM), stdin=subprocess.DEVNULL)
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise


@contextmanager
def at_work() -> Iterator[None]:
    """While SIGINT raises `KeyboardInterrupt`; before and after there is nothing to undo, and it ends the process."""
    global _has_work
    _has_work = True
    try:
        yield
    finally:
        _has_work = False


@contextmanager
def withheld(*signals: signal.Signals) -> Iterator[None]:
    """A process that is started here gets none of these signals, until it asks for them: a group's are for its parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


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


def _interrupt(*_: Any) -> None:
    global _interrupted
    if os.getpid() != _process:
        os._exit(128 + signal.SIGINT)
    now = time.monotonic()
    if _interrupted is not None and now - _interrupted < ONE_STOP_SECONDS:
        return
    is_first, _interrupted = _interrupted is None, now
    if is_first and _has_work:
        raise KeyboardInterrupt
    tell_interrupted()  # an exception might be caught, or shown, by what is being imported or ended
    os._exit(128 + signal.SIGINT)


def _watch_launcher(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_POLL_SECONDS)
    if _told is None:
        os.kill(os.getpid(), signal.SIGTERM)
