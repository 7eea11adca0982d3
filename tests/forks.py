"""Commands in processes of their own, without the seconds that each takes to import torch and transformers.

`Forks` starts one Python that imports the libraries, and this project not at all; it forks for every command, which then
runs as if started anew: with its own arguments, environment, folder, standard streams and exit code; but on one thread.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn


class Forks:
    """`environment` is that of the imports: what a library reads only then is the same for every command.

    A command that takes more than `seconds` is ended, and raises `TimeoutError` with what it had said.
    """

    seconds = 600

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
        """As `python *arguments` would, with `env` besides the environment of the imports."""
        (done,) = self.run_together([arguments], cwd, [env])
        return done

    def run_together(
        self, commands: Sequence[Sequence[str]], cwd: Path, environments: Sequence[Mapping[str, str]]
    ) -> list[subprocess.CompletedProcess[str]]:
        """Several commands at once, each with its environment."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with TemporaryDirectory() as name:
            asked = [
                (arguments, env, [f"{name}/{number}.out", f"{name}/{number}.err"])
                for number, (arguments, env) in enumerate(zip(commands, environments))
            ]
            print(json.dumps([str(cwd), self.seconds, asked]), file=self._process.stdin, flush=True)
            codes = json.loads(self._process.stdout.readline())
            done = [
                subprocess.CompletedProcess(arguments, code, *(Path(stream).read_text() for stream in streams))
                for (arguments, _, streams), code in zip(asked, codes)
            ]
        for one in done:
            if one.returncode == -signal.SIGALRM:
                raise TimeoutError(f"{one.args} took more than {self.seconds} s: {one.stdout} {one.stderr}")
        return done

    def close(self) -> None:
        self._process.communicate()


def stay_on_one_thread() -> None:
    """This process and its forks, whatever asks for more."""
    import torch

    torch.set_num_threads(1)
    torch.set_num_threads = lambda count: None


def _serve() -> None:
    """Returns in no fork, and here after the last command."""
    for line in sys.stdin:
        cwd, seconds, asked = json.loads(line)
        children = [os.fork() or _become(arguments, cwd, seconds, env, streams) for arguments, env, streams in asked]
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)


def _become(arguments: list[str], cwd: str, seconds: int, env: dict[str, str], streams: list[str]) -> NoReturn:
    signal.alarm(seconds)  # which nothing here handles: it ends the process
    for number, path in enumerate((os.devnull, *streams)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.update(env)
    first, *rest = arguments
    if first == "-m":
        sys.argv, sys.path[0] = rest, ""
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        exec(rest[0], {"__name__": "__main__"})
    else:
        script = os.path.abspath(first)  # processes that it spawns look from the folder of the imports
        sys.argv, sys.path[0] = arguments, os.path.dirname(script)
        runpy.run_path(script, run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    # Not `evaluate`, which a file of this project would hide if the script beside it did not take care (finetune/run.py).
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import torch  # noqa: F401
    import torchvision.transforms.v2  # noqa: F401
    from transformers import TimesformerVideoProcessor, Trainer, pipeline  # noqa: F401

    stay_on_one_thread()
    gc.freeze()  # else each fork, at its end, searches what is imported for garbage: seconds
    _serve()
