"""How long preparing a folder of videos takes, against what people do without this project.

    python benchmarks/prepare.py VIDEOS [--rounds 3]          one core: frames of every video, and scanning alone
    python benchmarks/prepare.py VIDEOS --workers             one process against two
    python benchmarks/prepare.py --many 10000                 a second run over a folder that has not changed
    python benchmarks/prepare.py --rows 100000                memory and time against the number of videos

Needs the programs ffmpeg and ffprobe for the first. All are whole commands, starting included, turn by turn in one run.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

SHORT_SIDE = 256
SCALE = f"scale='if(gt(iw,ih),-2,min({SHORT_SIDE},iw))':'if(gt(iw,ih),min({SHORT_SIDE},ih),-2)'"
EXTENSIONS = {".avi", ".mov", ".mp4", ".webm", ".mkv"}


def ours(videos: Path, out: Path, *options: str) -> None:
    run([sys.executable, "-m", "data_prep", str(videos), str(out / "dataset"), *options])


def ffmpeg_loop(videos: Path, out: Path, *output: str) -> None:
    """As tutorials do it: ffprobe for the length, ffmpeg for the frames, for each file."""
    for number, path in enumerate(files(videos)):
        run(["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0", "-show_entries",
             "stream=nb_read_frames", "-of", "csv=p=0", str(path)])  # fmt: skip
        folder = out / str(number)
        folder.mkdir()
        run(["ffmpeg", "-v", "error", "-threads", "1", "-i", str(path), "-vf", SCALE, "-vsync", "0", *output[:-1],
             str(folder / output[-1])])  # fmt: skip


def python_loop(videos: Path, out: Path) -> None:
    """As MMAction2's check_videos.py and frame extraction do it: open and decode to check, then again to write JPEGs."""
    code = (
        "import sys, av, pathlib\n"
        "for number, path in enumerate(sys.argv[2:]):\n"
        "    with av.open(path) as video: sum(1 for _ in video.decode(video=0))\n"
        "    folder = pathlib.Path(sys.argv[1], str(number)); folder.mkdir()\n"
        "    with av.open(path) as video:\n"
        "        for i, frame in enumerate(video.decode(video=0)):\n"
        "            image = frame.to_image()\n"
        f"            image.thumbnail((10**6, {SHORT_SIDE}) if image.width > image.height else ({SHORT_SIDE}, 10**6))\n"
        "            image.save(folder / f'{i:05d}.jpg', quality=85)\n"
    )
    run([sys.executable, "-c", code, str(out), *map(str, files(videos))])


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def files(videos: Path) -> list[Path]:
    return sorted(path for path in videos.rglob("*") if path.suffix.lower() in EXTENSIONS)


def measure(work: Callable[[Path], None]) -> tuple[float, float, int]:
    """(wall s, CPU s of all processes, bytes written)."""
    with tempfile.TemporaryDirectory() as folder:
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        work(Path(folder))
        wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, size


def turn_by_turn(works: dict[str, Callable[[Path], None]], rounds: int) -> dict[str, float]:
    """Prints the medians; returns the wall times'."""
    results: dict[str, list[tuple[float, float, int]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            results[name].append(measure(work))
    first = next(iter(works))
    walls = {name: statistics.median(wall for wall, _, _ in result) for name, result in results.items()}
    print("| | wall s (spread) | CPU s | MB written | time, first = 1 |\n|---|---|---|---|---|")
    for name, result in results.items():
        times = sorted(wall for wall, _, _ in result)
        cpu = statistics.median(cpu for _, cpu, _ in result)
        print(
            f"| {name} | {walls[name]:.1f} ({times[0]:.1f}-{times[-1]:.1f}) | {cpu:.1f} | {result[0][2] / 1e6:.0f} "
            f"| {walls[name] / walls[first]:.2f} |"
        )
    return walls


def against_ffmpeg(videos: Path, rounds: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # per core: all of them, and their children, on one
    frames = ["--store", "frames", "--short_side", str(SHORT_SIDE)]
    turn_by_turn(
        {
            "data_prep, frames": lambda out: ours(videos, out, *frames),
            "ffmpeg loop, PNG": lambda out: ffmpeg_loop(videos, out, "%05d.png"),
            "ffmpeg loop, JPEG": lambda out: ffmpeg_loop(videos, out, "-q:v", "4", "%05d.jpg"),
            "Python loop, JPEG": lambda out: python_loop(videos, out),
            "data_prep, files": lambda out: ours(videos, out),
        },
        rounds,
    )


def one_against_two(videos: Path, rounds: int) -> None:
    """Five times the folder: the part that one process does alone (starting, splits, report) takes some seconds."""
    frames = ["--store", "frames", "--short_side", str(SHORT_SIDE)]
    with tempfile.TemporaryDirectory() as folder:
        for path in files(videos):
            target = Path(folder, path.parent.name)
            target.mkdir(exist_ok=True)
            for copy in "abcde":
                shutil.copy(path, target / f"{copy}_{path.name}")
        turn_by_turn(
            {
                "2 processes": lambda out: ours(Path(folder), out, *frames, "--num_proc", "2"),
                "1 process": lambda out: ours(Path(folder), out, *frames, "--num_proc", "1"),
            },
            rounds,
        )


def second_run(number: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder, "videos"), Path(folder, "out")
        write_many(root, number)
        for name, options in (("first", []), ("unchanged", []), ("another seed", ["--seed", "1", "--overwrite"])):
            started = time.monotonic()
            ours(root, out, *options)
            print(f"{number} files, {name}: {time.monotonic() - started:.1f} s")
            out = Path(folder, "out")


def write_many(root: Path, number: int) -> None:
    """Small videos, each of its own content, in ten classes."""
    random = np.random.default_rng(0)
    for index in range(number):
        path = root / f"class{index % 10}" / f"{index}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width = stream.height = 32
            for picture in random.integers(0, 255, (6, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())


def by_rows(number: int) -> None:
    """Peak memory of the command (not of the processes that decode) for a list of 1,000 videos and of `number`."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_many(root / "videos", number)
        paths = files(root / "videos")
        for rows in (1000, number):
            table = root / "videos" / f"list{rows}.csv"
            table.write_text(
                "path,label\n"
                + "".join(f"{p.relative_to(table.parent)},{p.parent.name}\n" for p in paths[:: len(paths) // rows])
            )
            code = "import resource, sys; from data_prep.prepare import main; main(sys.argv[1:]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
            started = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-c", code, str(table), str(root / f"out{rows}")], check=True, capture_output=True, text=True
            )  # fmt: skip
            print(f"{rows} rows: {time.monotonic() - started:.0f} s, peak {done.stdout.split()[-1]} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", action="store_true")
    parser.add_argument("--many", type=int)
    parser.add_argument("--rows", type=int)
    options = parser.parse_args()
    if options.many:
        second_run(options.many)
    elif options.rows:
        by_rows(options.rows)
    elif options.videos is None or (not options.workers and shutil.which("ffmpeg") is None):
        parser.error("give VIDEOS, and install ffmpeg")
    elif options.workers:
        one_against_two(options.videos, options.rounds)
    else:
        against_ffmpeg(options.videos, options.rounds)


if __name__ == "__main__":
    main()
