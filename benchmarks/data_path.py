"""How fast clips are read, against what people use otherwise; every way in one process, turn by turn.

    python benchmarks/data_path.py FOLDER [--kind kinetics] [--rounds 5]     decoding, and file to batch
    python benchmarks/data_path.py FOLDER --workers                          one loader process against two
    python benchmarks/data_path.py FOLDER --profile                          where the time of reading goes

FOLDER holds real videos, from which the material is made (benchmarks/material.py) and prepared by data_prep into the
three stores. Needs `pip install -e ".[bench]"` and, for torchcodec, FFmpeg's libraries. Everything runs on one core and
one thread; CPU time of the process is what counts, and a ratio is the sum over clips of the medians over rounds.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import random
import resource
import statistics
import time
import warnings
from pathlib import Path

import cv2
import torch
from material import KINDS, write_kind
from methods import DOCS, DOCS_BATCH, SIZE, TORCHCODEC, TORCHCODEC_BATCH, Method, decoders, pipelines
from peers import docs_loop
from prepared import Prepared
from transformers import TimesformerVideoProcessor
from transformers.trainer_utils import set_seed

from data_prep.schema import STORES
from finetune.clips.batch import ClipTransform, collate
from finetune.clips.clip import ClipMaker, Clips, read_clip
from finetune.clips.sampling import Sampling

STRIDES = {"kinetics": 32, "720p": 32, "ucf101": 16, "ssv2": 4}


def run(
    methods: dict[str, Method], paths: list[Path], num_frames: int, stride: int, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """{method: (CPU ms, wall ms) of each clip, median over rounds}; the first round is not counted."""
    times: dict[str, list[list[tuple[float, float]]]] = {name: [[] for _ in paths] for name in methods}
    for turn in range(rounds + 1):
        for number, path in enumerate(paths):
            start = random.Random(f"{turn} {number}").randrange(max(1, num_frames - 7 * stride))
            indices = [min(start + i * stride, num_frames - 1) for i in range(8)]
            for name in random.sample(list(methods), len(methods)):
                # On another clip, uncounted: the method's code and memory are warm, as in a loader; the clip is not.
                methods[name](str(paths[number - 1]), indices)
                cpu, wall = time.process_time(), time.perf_counter()
                methods[name](str(path), indices)
                spent = time.process_time() - cpu, time.perf_counter() - wall
                if turn:
                    times[name][number].append((1000 * spent[0], 1000 * spent[1]))
    return {
        name: [(statistics.median(c for c, _ in one), statistics.median(w for _, w in one)) for one in clips]
        for name, clips in times.items()
    }


def check(
    methods: dict[str, Method], stores: Prepared, paths: list[Path], num_frames: int, stride: int
) -> dict[str, str]:
    """Of each method, how many frames equal those of decoding its own store from the start; colours may differ by 2."""
    right: dict[str, list[bool]] = {name: [] for name in methods}
    for path in paths[:6]:
        indices = [min(5 + i * stride, num_frames - 1) for i in range(8)]
        for name, method in methods.items():
            if name.startswith("limit"):
                continue
            store = name.rpartition(", ")[2] if name.startswith("this") and "index" not in name else "files"
            truth = docs_loop(str(path), indices)
            if store != "files":
                row = stores.row(store, str(path))
                truth = read_clip({**row, "packet_index": None}, indices).permute(0, 2, 3, 1).numpy()
            try:
                frames = method(str(path), indices)
                right[name] += [bool((abs(a.astype(int) - b) <= 2).mean() > 0.99) for a, b in zip(frames, truth)]
            except RuntimeError:
                right[name] += [False] * 8
    return {name: f"{sum(ok)} of {len(ok)}" if ok else "" for name, ok in right.items()}


def show(times: dict[str, list[tuple[float, float]]], base: str, second: str, exact: dict[str, str]) -> None:
    print(
        f"\n| | CPU ms | wall ms | x {base} | p10 to p90 | x {second} | frames right |\n|---|---|---|---|---|---|---|"
    )
    of = {name: sum(cpu for cpu, _ in clips) for name, clips in times.items()}
    for name, clips in times.items():
        ratios = sorted(b[0] / c[0] for b, c in zip(times[base], clips))
        low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
        wall = sum(wall for _, wall in clips) / len(clips)
        print(
            f"| {name} | {of[name] / len(clips):.2f} | {wall:.2f} | {of[base] / of[name]:.2f} | {low:.1f} to {high:.1f} | "
            f"{of[second] / of[name]:.2f} | {exact.get(name, '')} |"
        )


def measure_workers(stores: Prepared, stride: int, rounds: int) -> None:
    """A loader with one process and with two, in turn: clips per second, the best of the rounds, and CPU time per clip."""
    maker = ClipMaker(8, ClipTransform(TimesformerVideoProcessor(**SIZE)), Sampling("dense", stride))
    for store in STORES:
        clips = Clips(stores.splits[store], maker, training=True)
        repeated = torch.utils.data.ConcatDataset([clips] * (8 if store == "files" else 40))
        rates: dict[int, list[float]] = {1: [], 2: []}
        costs: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(rounds):
            for workers in rates:
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                loader = torch.utils.data.DataLoader(repeated, 8, shuffle=True, num_workers=workers, collate_fn=collate)
                batches = iter(loader)
                next(batches)  # processes have started
                started = time.perf_counter()
                for _ in batches:
                    pass
                rates[workers].append((len(repeated) - 8) / (time.perf_counter() - started))
                del batches, loader
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                costs[workers].append(1000 * spent / len(repeated))
        one, two = (max(rates[workers]) for workers in (1, 2))
        cheap, dear = (statistics.median(costs[workers]) for workers in (1, 2))
        print(
            f"{store}: {one:.0f} clips/s with one process, {two:.0f} with two ({two / one:.2f} times); CPU {cheap:.1f} and {dear:.1f} ms a clip"
        )


def profile(stores: Prepared, stride: int) -> None:
    """Where the time goes in `read_clip`, by function."""
    for store in ("clips", "frames"):
        rows = stores.rows[store]
        cells = [rows[at] for at in range(len(rows))]
        with cProfile.Profile() as profiler:
            for start in range(10):
                for row in cells:
                    read_clip(row, [start + stride * i for i in range(8)])
        print(store)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="real videos, in any folders")
    parser.add_argument("--kind", choices=KINDS, default="kinetics")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("data_path_material"), help="where the material is kept")
    parser.add_argument("--workers", action="store_true")
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    set_seed(0)
    kind, stride, num_frames = options.kind, STRIDES[options.kind], KINDS[options.kind][5]
    paths = write_kind(options.folder, options.work / kind / "videos", kind, options.clips)
    stores = Prepared(options.work / kind, paths)
    if options.workers:
        measure_workers(stores, stride, options.rounds)
        return
    if options.profile:
        profile(stores, stride)
        return
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sizes = ", ".join(f"{store} {size / stores.bytes['files']:.2f}" for store, size in stores.bytes.items())
    print(
        f"{kind}: {len(paths)} clips, 8 frames {stride} apart, {options.rounds} rounds; bytes: {sizes} times the files'"
    )
    methods = decoders(stores, paths)
    exact = check(methods, stores, paths, num_frames, stride)
    times = run(methods, paths, num_frames, stride, options.rounds)
    show(times, DOCS, TORCHCODEC, exact)
    whole = run(pipelines(stores), paths, num_frames, stride, options.rounds)
    show(whole, DOCS_BATCH, TORCHCODEC_BATCH, {})


if __name__ == "__main__":
    main()
