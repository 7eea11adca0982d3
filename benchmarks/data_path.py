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
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import datasets
import numpy as np
import simplejpeg
import torch
from av.video.reformatter import VideoReformatter
from material import KINDS, write_kind
from peers import decode_all, docs_loop, with_decord, with_opencv, with_torchcodec
from transformers import TimesformerVideoProcessor, VideoMAEImageProcessor
from transformers.trainer_utils import set_seed

from data_prep.index import PacketIndex
from data_prep.indexed import _decode, opened_bytes
from data_prep.schema import STORES
from data_prep.video import read_frames
from finetune.batch import ClipTransform, collate
from finetune.clip import ClipMaker, Clips, Rows, read_clip
from finetune.sampling import Sampling

STRIDES = {"kinetics": 32, "720p": 32, "ucf101": 16, "ssv2": 4}
SIZE = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
Method = Callable[[str, list[int]], Any]


class Prepared:
    """The three stores of the same videos, by the name of the source's file."""

    def __init__(self, folder: Path, videos: list[Path]):
        listed = folder / "videos.csv"
        lines = [f"videos/{path.name},{'even' if at % 2 == 0 else 'odd'}\n" for at, path in enumerate(videos)]
        listed.write_text("path,label\n" + "".join(lines))
        self.rows: dict[str, dict[str, tuple[Rows, int]]] = {}
        self.bytes = {"files": sum(path.stat().st_size for path in videos)}
        for store in STORES:
            out = folder / store
            if not out.exists():
                subprocess.run(
                    [sys.executable, "-m", "data_prep", str(listed), str(out), "--store", store, "--splits", "1", "0", "0", "--no_duplicates"],
                    check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
            split = datasets.load_from_disk(str(out))["train"]
            rows = Rows(split)
            self.rows[store] = {Path(name).stem: (rows, at) for at, name in enumerate(split["video_id"])}
            if store != "files":
                self.bytes[store] = sum(self._stored_bytes(rows[at]) for at in range(len(rows)))
            self.split = split

    @staticmethod
    def _stored_bytes(row: dict[str, Any]) -> int:
        if row.get("frames") is not None:
            return sum(len(row["frames"][i]) for i in range(row["num_frames"]))
        return len(row["video"]["bytes"])

    def row(self, store: str, path: str) -> dict[str, Any]:
        rows, at = self.rows[store][Path(path).stem]
        return rows[at]


def decoders(stores: Prepared, approximate: bool) -> dict[str, Method]:
    def ours(store: str) -> Method:
        cached: dict[str, dict[str, Any]] = {}

        def read(path: str, indices: list[int]) -> np.ndarray:
            row = cached.setdefault(path, stores.row(store, path))
            return read_clip(row, indices).permute(0, 2, 3, 1).numpy()

        return read

    methods: dict[str, Method] = {
        "docs' loop (PyAV from frame 0)": docs_loop,
        "decode all (PySlowFast)": decode_all,
        "decord": with_decord,
        "torchcodec exact": with_torchcodec,
        "OpenCV": with_opencv,
        "this project, files": ours("files"),
        "this project, files, no index": lambda path, indices: read_frames(Path(path).read_bytes(), indices),
        "this project, clips": ours("clips"),
        "this project, frames": ours("frames"),
        "limit of FFmpeg, files": limit_of_video(stores, "files"),
        "limit of FFmpeg, clips": limit_of_video(stores, "clips"),
        "limit of libjpeg-turbo, frames": limit_of_jpeg(stores),
    }
    if approximate:
        methods["torchcodec approximate"] = lambda path, indices: with_torchcodec(path, indices, "approximate")
    return methods


def limit_of_video(stores: Prepared, store: str) -> Method:
    """What the decoder and the colour conversion alone take for the pictures that the wanted ones need."""
    cached: dict[str, tuple[PacketIndex, bytes]] = {}

    def read(path: str, indices: list[int]) -> None:
        if path not in cached:
            row = stores.row(store, path)
            index = PacketIndex.from_bytes(row["packet_index"])
            if index is not None:
                cached[path] = index, row["video"]["bytes"] or Path(path).read_bytes()
        converter = VideoReformatter()
        index, data = cached[path]
        with opened_bytes(data) as (pread, _):
            for frame, _ in _decode(pread, index, indices):
                converter.reformat(frame, format="rgb24", threads=1)

    return read


def limit_of_jpeg(stores: Prepared) -> Method:
    cached: dict[str, list[bytes]] = {}
    pixels = np.empty((512, 512 * 3), np.uint8)

    def read(path: str, indices: list[int]) -> None:
        if path not in cached:
            row = stores.row("frames", path)
            cached[path] = [row["frames"][i] for i in range(row["num_frames"])]
        for i in indices:
            simplejpeg.decode_jpeg(cached[path][i], buffer=pixels)

    return read


def pipelines(stores: Prepared, stride: int) -> dict[str, Method]:
    """File to a batch of one clip, ready for the loader: training transforms of this project, the others' documented ones."""
    images, videos = VideoMAEImageProcessor(**SIZE), TimesformerVideoProcessor(**SIZE, do_sample_frames=False)
    maker = ClipMaker(8, ClipTransform(videos), Sampling("dense", stride))

    def ours(store: str) -> Method:
        def read(path: str, indices: list[int]) -> Any:
            row, rows = stores.row(store, path), indices[0]
            fixed = ClipMaker(8, maker.transform, _Fixed(indices))
            return collate([fixed.training(row, torch.Generator().manual_seed(rows))])

        return read

    return {
        "docs' loop + image processor": lambda path, indices: images(
            list(docs_loop(path, indices)), return_tensors="pt"
        ),
        "torchcodec exact + video processor": lambda path, indices: videos(
            torch.from_numpy(with_torchcodec(path, indices)).permute(0, 3, 1, 2), return_tensors="pt"
        ),
        **{f"this project, {store}": ours(store) for store in STORES},
    }


class _Fixed(Sampling):
    """The indices that every method reads."""

    def __init__(self, indices: list[int]):
        super().__init__()
        object.__setattr__(self, "indices", indices)

    def training(self, *args: Any) -> list[int]:
        return list(self.indices)  # type: ignore[attr-defined]


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


def measure_workers(stores: Prepared, rounds: int) -> None:
    """A loader with one process and with two, in turn: clips per second, the best of the rounds, and CPU time per clip."""
    maker = ClipMaker(8, ClipTransform(TimesformerVideoProcessor(**SIZE)), Sampling("dense", 32))
    for store in STORES:
        clips = Clips(stores.split, maker, training=True)
        clips.rows = next(iter(stores.rows[store].values()))[0]
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


def profile(stores: Prepared) -> None:
    """Where the time goes in `read_clip`, by function."""
    for store in ("clips", "frames"):
        rows = next(iter(stores.rows[store].values()))[0]
        cells = [rows[at] for at in range(len(rows))]
        with cProfile.Profile() as profiler:
            for start in range(10):
                for row in cells:
                    read_clip(row, [start + 32 * i for i in range(8)])
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
        measure_workers(stores, options.rounds)
        return
    if options.profile:
        profile(stores)
        return
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sizes = ", ".join(f"{store} {size / stores.bytes['files']:.2f}" for store, size in stores.bytes.items())
    print(
        f"{kind}: {len(paths)} clips, 8 frames {stride} apart, {options.rounds} rounds; bytes: {sizes} times the files'"
    )
    methods = decoders(stores, approximate=True)
    exact = check(methods, stores, paths, num_frames, stride)
    times = run(methods, paths, num_frames, stride, options.rounds)
    show(times, "docs' loop (PyAV from frame 0)", "torchcodec exact", exact)
    whole = run(pipelines(stores, stride), paths, num_frames, stride, options.rounds)
    show(whole, "docs' loop + image processor", "torchcodec exact + video processor", {})


if __name__ == "__main__":
    main()
