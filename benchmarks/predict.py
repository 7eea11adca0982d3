"""Folders of videos through a model: `python -m finetune.predict` against a loop over transformers' pipeline, in turns.

python benchmarks/predict.py MODEL VIDEOS [--rounds 3] [--at_most 40]        # MODEL: a checkpoint, or timesformer-small, -base

Each way runs in a process of its own, as a user would run it; its time is from the first file to the last, with the model
loaded (ours: with the start of its reading processes). The pipeline reads paths with torchcodec, which needs FFmpeg's
libraries. A name stands for random weights of that size: times are those of a trained model, agreement says less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = ("pipeline", "predict", "predict, bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("videos")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at_most", type=int, default=40, help="videos, evenly from the list")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.model, options.videos, options.at_most), allow_nan=False))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.model.startswith("timesformer-"):
            options.model = write_random(options.model, folder)
        compare(options)


def compare(options: argparse.Namespace) -> None:
    took: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            command = [sys.executable, __file__, options.model, options.videos, "--at_most", str(options.at_most)]
            done = subprocess.run([*command, "--way", way], capture_output=True, text=True, check=True)
            took[way].append(json.loads(done.stdout.splitlines()[-1]))
    first = took["pipeline"][0]["answers"]
    print(
        "| way | ms a file (median, least to most) | CPU ms a file | times as fast | same top-1, largest difference of its score |"
    )
    print("|---|---|---|---|---|")
    for way, runs in took.items():
        ms = [run["seconds"] / len(first) * 1e3 for run in runs]
        cpu = statistics.median(run["cpu"] / len(first) * 1e3 for run in runs)
        ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(took["pipeline"], runs))
        answers = runs[0]["answers"]
        same = [answers[path][0] == label for path, (label, _) in first.items()]
        apart = max(
            abs(answers[path][1] - score) for path, (label, score) in first.items() if answers[path][0] == label
        )
        print(
            f"| {way} | {statistics.median(ms):.0f} ({min(ms):.0f} to {max(ms):.0f}) | {cpu:.0f} | {ratio:.1f} | {sum(same)} of {len(same)}, {apart:.0e} |"
        )


def measure(way: str, model: str, videos: str, at_most: int) -> dict[str, object]:
    """Seconds by the clock and of the CPU for all files, and each one's first label and score."""
    from finetune.use.inputs import find_inputs

    sources = find_inputs([videos])
    sources = sources[:: -(-len(sources) // at_most)]
    answers = {}
    if way == "pipeline":
        from transformers import pipeline

        classify = pipeline("video-classification", model=model)
        start, cpu = time.perf_counter(), sum(os.times()[:4])
        for source in sources:
            best = classify(source.path)[0]
            answers[source.path] = (best["label"], best["score"])
    else:
        from data_prep.workers import available_cores
        from finetune.use.classifier import Ask
        from finetune.use.model_flags import load_classifier

        dtype = "bfloat16" if way.endswith("bfloat16") else "float32"
        classifier = load_classifier(argparse.Namespace(model=model, device="cpu", dtype=dtype))
        start, cpu = time.perf_counter(), sum(os.times()[:4])
        for row in classifier.rows(sources, Ask(top_k=1, num_workers=available_cores())):
            best = row["predictions"][0]
            answers[row["video"]] = (best["label"], best["score"])
    return {"seconds": time.perf_counter() - start, "cpu": sum(os.times()[:4]) - cpu, "answers": answers}


def write_random(name: str, folder: str) -> str:
    import torch

    from finetune.model.wanted import ModelArguments
    from finetune.model.weights import load_start

    torch.manual_seed(0)
    start = load_start(ModelArguments(model_name_or_path=name), [str(number) for number in range(400)])
    path = Path(folder) / name
    start.model.save_pretrained(path)
    start.processor.save_pretrained(path)
    return str(path)


if __name__ == "__main__":
    main()
