"""The kind of machine that computes: where it is the same, so are all results, to the bit."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path


def kind_of_machine() -> dict[str, str]:
    """Versions of what computes, and a digest of the processor's maker and instructions, by which libraries choose how."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.is_file() else []
    processor = [
        line for line in lines if line.startswith(("vendor_id", "flags", "CPU implementer", "CPU part", "Features"))
    ]
    libraries = {name: version(name) for name in ("torch", "torchvision", "transformers", "accelerate", "av", "numpy")}
    return {**libraries, "processor": hashlib.sha256("\n".join(processor).encode()).hexdigest()[:16]}
