"""data_prep.child: a program that was started ends with the process that started it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from forks import Forks

STARTS = """
import os, signal, subprocess, sys, time
from data_prep.child import ending_with_us
child = subprocess.Popen(ending_with_us(["sh", "-c", "trap 'echo told > told; exit' TERM; echo $$ > pid; sleep 60 & wait"], signal.SIGTERM))
while not os.path.exists("pid") or not open("pid").read():
    time.sleep(0.01)
assert int(open("pid").read()) == child.pid, "the program itself is the child: what it is sent reaches it"
if sys.argv[1:] == ["kill"]:
    os.kill(os.getpid(), signal.SIGKILL)
child.terminate()
child.wait()
"""


@pytest.mark.parametrize("end", ["kill", "normal"])
def test_a_program_is_told_when_its_parent_is_killed(forks: Forks, tmp_path: Path, end: str) -> None:
    done = forks.run("-c", STARTS, end, cwd=tmp_path)
    assert done.returncode == (-signal.SIGKILL if end == "kill" else 0), done.stderr
    pid, deadline = int((tmp_path / "pid").read_text()), time.monotonic() + 20
    while not (tmp_path / "told").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (tmp_path / "told").exists()
    while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_program_whose_parent_is_gone_does_not_begin(forks: Forks, tmp_path: Path) -> None:
    """As where the parent was killed between the start and the first line."""
    code = (
        "import subprocess; from data_prep.child import ending_with_us;"
        "words = ending_with_us(['touch', 'begun']); words[4] = '1' if words[4] != '1' else '2';"
        "print(subprocess.run(words).returncode)"
    )
    done = forks.run("-c", code, cwd=tmp_path)
    assert done.stdout == "1\n" and not (tmp_path / "begun").exists(), done.stderr


def test_a_program_that_is_not_there_is_named(forks: Forks, tmp_path: Path) -> None:
    code = "import subprocess; from data_prep.child import ending_with_us; subprocess.run(ending_with_us(['no-such-program', 'x']))"
    assert forks.run("-c", code, cwd=tmp_path).stderr == "no-such-program: No such file or directory\n"
