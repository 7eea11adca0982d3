"""tests/forks.py: a command in a fork is a command."""

from __future__ import annotations

from pathlib import Path

import pytest
from forks import Forks


def test_a_command_has_its_own_arguments_environment_folder_streams_and_code(forks: Forks, tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv[1:], os.environ['COLOUR'], os.getcwd()); print('no', file=sys.stderr); sys.exit(3)"
    done = forks.run("-c", code, "a b", cwd=tmp_path, COLOUR="red")
    assert (done.returncode, done.stdout, done.stderr) == (3, f"['a b'] red {tmp_path}\n", "no\n")


def test_a_command_that_hangs_is_ended_with_what_it_had_said(
    forks: Forks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "seconds", 1)
    with pytest.raises(TimeoutError, match="took more than 1 s: so far"):
        forks.run("-c", "import time; print('so far', flush=True); time.sleep(60)", cwd=tmp_path)
