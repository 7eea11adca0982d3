"""Child processes that end with their parent, also with one that is killed. Linux alone can do that for any program.

python child.py PARENT SIGNAL COMMAND ...: becomes COMMAND, which gets SIGNAL when the process PARENT has ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def ending_with_us(command: Sequence[str | Path], end: signal.Signals = signal.SIGKILL) -> list[str | Path]:
    """The command to start in place of `command`, from the main thread: it is sent `end` when this process ends.

    It may be sent several times at once: a process of several threads ends thread by thread.
    """
    if not sys.platform.startswith("linux"):
        return list(command)
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(end)), *command]


def main(parent: str, end: str, *command: str) -> None:
    # Kept when another program takes this process over. Python's `preexec_fn` could do the same, but not safely beside threads.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(end), 0, 0, 0)
    if os.getppid() != int(parent):  # it ended before
        sys.exit(1)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(*sys.argv[1:])
