"""Memory and time of `--timeline` by the length of the video: python benchmarks/timeline.py MODEL [--minutes 2 120]

The videos are the demonstration's clips one after another, 64x64 px at 8 frames a second.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from data_prep.demo import CLASSES, FRAMES_PER_SECOND, draw_motion, write_video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 120])
    options = parser.parse_args()
    clips = [list(draw_motion(label, np.random.default_rng(number))) for number, label in enumerate(CLASSES)]
    print("| video | seconds | peak memory, MB |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for minutes in options.minutes:
            video = Path(folder) / "long.mp4"
            frames = itertools.chain.from_iterable(itertools.cycle(clips))
            write_video(video, itertools.islice(frames, round(minutes * 60 * FRAMES_PER_SECOND)))
            seconds, megabytes = run(options.model, video)
            print(f"| {minutes:g} min | {seconds:.0f} | {megabytes:.0f} |")


def run(model: str, video: Path) -> tuple[float, float]:
    """Seconds by the clock and the peak of the memory of the whole command, with Python's imports."""
    command = [sys.executable, "-m", "finetune.predict", model, str(video), "--timeline", "--window_seconds", "2"]
    begun = time.perf_counter()
    process = subprocess.Popen([*command, "--output", str(video.with_suffix(".json"))])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} ended with {status}")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
