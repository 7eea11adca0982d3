"""What the commands that use a trained model have in common: which model, where, how precisely; and numbers that are checked."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.use.classifier import Classifier


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Of every command that uses a model."""
    parser.add_argument("--device", help="cpu, cuda, ... (default: an accelerator where there is one)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16: faster where the hardware has it, scores change in their second or third digit (default: float32)")  # fmt: skip


def load_classifier(options: argparse.Namespace) -> Classifier:
    # Read when torch is imported: its threads wait asleep, not in a loop that takes the cores from those that decode.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from finetune.use.classifier import load

    return load(options.model, options.device, options.dtype)


def positive(text: str) -> int:
    """For argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"is {number}, expected at least 1")
    return number


def positive_seconds(text: str) -> float:
    seconds = float(text)
    if not 0.01 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"is {text}, expected 0.01 to 86400 seconds")
    return seconds


def not_negative(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"is {number}, expected at least 0")
    return number
