"""finetune/run.py with its model sharded by FSDP2 on a CPU; with STOP=n in the environment, told to stop in step n.

accelerate shards on accelerators alone (`AcceleratorState`), and is told to do so here too; all the rest is theirs and
ours. Apart from the tests, since each process runs it as its script.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env

ROOT = Path(__file__).parents[1]
_begin = AcceleratorState.__init__


def launched(config_file: Path, *more: str) -> None:
    """Sets in the environment what `accelerate launch --config_file` would."""
    parsed = launch_command_parser().parse_args(["--config_file", str(config_file), *more, "script.py"])
    ranks = {name: os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK")}
    os.environ.update(prepare_multi_gpu_env(_validate_launch_command(parsed)[0]))
    os.environ.update(ranks)


def begin(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    _begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        PartialState._shared_state["distributed_type"] = self.distributed_type = DistributedType.FSDP
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.fsdp_plugin = fsdp_plugin


def stop_in(step: int) -> None:
    from finetune.training.trainer import VideoTrainer

    whole = VideoTrainer.training_step

    def training_step(self: VideoTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, *args, **kwargs)

    VideoTrainer.training_step = training_step  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from data_prep.errors import exit_cleanly
    from finetune.run import main

    launched(ROOT / "finetune" / "launch" / "fsdp2.yaml", *os.environ.get("LAUNCH", "").split())
    AcceleratorState.__init__ = begin  # type: ignore[method-assign]
    if "STOP" in os.environ:
        stop_in(int(os.environ["STOP"]))
    sys.exit(exit_cleanly(main)())
