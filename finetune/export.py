"""python -m finetune.export MODEL OUT --format onnx: the model as a program that runs without this project.

OUT holds the program, preprocessing.json (what to do to a video before), example.py (a script that does it) and
export.json (what was measured). Nothing is written where the program's logits differ from the model's.
"""

from __future__ import annotations

import sys

from data_prep.sigterm import interruptible

if __name__ == "__main__":
    interruptible()  # before what takes seconds to import

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from data_prep.errors import CommandLine, UserError, exit_cleanly
from data_prep.lock import only_writer
from data_prep.store import whole_directory, write_json
from finetune.clips.batch import normalise
from finetune.model.finite import check_answers
from finetune.use.classifier import Classifier, load
from finetune.use.export_example import example_script, preprocessing
from finetune.use.exported import (
    FORMATS,
    compare,
    in_batches,
    latency_ms,
    needs,
    opened,
    quantize,
    versions,
    write_program,
)
from finetune.use.inputs import find_inputs
from finetune.use.reading import ClipReader

_NUM_CLIPS = 4  # of noise, where no videos are given


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Returns what export.json holds."""
    options = parse_arguments(argv)
    with only_writer(("OUT", options.out)):
        return export(options)


def export(options: argparse.Namespace) -> dict[str, Any]:
    if options.out.exists():
        raise UserError(f"{options.out} exists: choose another folder, or delete it.")
    classifier = load(options.model, "cpu")
    clips = clips_to_compare(classifier, options.videos)
    with whole_directory(options.out) as folder:
        path = folder / FORMATS[options.format]
        write_program(classifier.model, torch.cat((clips, clips))[:2].contiguous(), options.format, path)
        facts = measure(classifier, path, clips, options.quantize)
        if options.quantize:
            path.unlink()
            path = folder / "model.int8.onnx"
        write_json(folder / "preprocessing.json", preprocessing(classifier))
        (folder / "example.py").write_text(example_script(classifier, path.name), encoding="utf-8")
        made = {"model": Path(options.model).name, "format": options.format, "quantize": options.quantize}
        facts = {
            **made,
            "made_with": versions(options.format),
            "compared_on": "noise" if options.videos is None else "videos",
            **facts,
        }
        write_json(folder / "export.json", facts)
    print(table(facts))
    print(
        f"{options.out}: {path.name}, preprocessing.json, example.py, export.json\n\nnext:\n  python {options.out / 'example.py'} VIDEO"
    )
    return facts


def clips_to_compare(classifier: Classifier, videos: list[str] | None) -> torch.Tensor:
    """Normalised float32 `(clips, num_frames, 3, crop, crop)`: of the videos, or of noise."""
    if videos is None:
        crop = classifier.processor.crop_size
        shape = (_NUM_CLIPS, classifier.num_frames, 3, crop["height"], crop["width"])
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    else:
        reader = ClipReader(classifier.sampling, classifier.num_frames)
        read = [reader.read(source) for source in find_inputs(videos)]
        usable = [classifier.pixels(video.frames[0]) for video in read if video.frames is not None]
        if not usable:
            raise UserError(f"none of the {len(read)} videos could be read; the first: {read[0].error}.")
        pixels = torch.cat(usable)
    return normalise(pixels, classifier.processor)


def measure(classifier: Classifier, path: Path, clips: torch.Tensor, to_int8: bool) -> dict[str, Any]:
    """Agreement and latency of each program, by its name. Raises `UserError` where they do not agree."""

    def model(pixel_values: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = classifier.model(pixel_values=pixel_values).logits.clone()
            return logits

    expected, program = in_batches(model, clips), opened(path)
    check_answers(expected, classifier.name)
    agreement = compare(expected, in_batches(program, clips))
    agreement.check(float(expected.abs().max()))
    programs = {"PyTorch": model, path.name: program}
    facts: dict[str, Any] = {"agreement": {path.name: asdict(agreement)}}
    sizes = {path.name: _megabytes(path)}
    if to_int8:
        smaller = path.with_name("model.int8.onnx")
        quantize(path, smaller)
        programs[smaller.name], sizes[smaller.name] = opened(smaller), _megabytes(smaller)
        facts["agreement"][smaller.name] = asdict(compare(expected, in_batches(programs[smaller.name], clips)))
    facts["latency_ms"] = {name: latency_ms(run, clips[:1]) for name, run in programs.items()}
    return {**facts, "megabytes": sizes, "threads": torch.get_num_threads()}


def _megabytes(path: Path) -> float:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")) / 1e6


def table(facts: dict[str, Any]) -> str:
    lines = [f"{'':<16} {'ms a clip':>10} {'MB':>8} {'logits differ':>14} {'scores differ':>14} {'same top-1':>11}"]
    for name, ms in facts["latency_ms"].items():
        line = f"{name:<16} {ms:>10.1f}"
        if name in facts["agreement"]:
            found = facts["agreement"][name]
            line += f" {facts['megabytes'][name]:>8.1f} {found['logits']:>14.1e} {found['scores']:>14.1e} {found['top1']:>11.1%}"
        lines.append(line)
    clips = next(iter(facts["agreement"].values()))["num_clips"]
    return "\n".join([*lines, f"compared on {clips} clips of {facts['compared_on']}, {facts['threads']} threads"])


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    about, more = (__doc__ or "").split("\n\n", 1)
    parser = CommandLine(prog="python -m finetune.export", description=about, epilog=more)
    parser.add_argument("model", metavar="MODEL", help="TimeSformer checkpoint: a directory or a Hub id")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    parser.add_argument("--format", choices=FORMATS, required=True, help="onnx: ONNX Runtime and others, needs the extra [export]; torch_export: torch.export's program, for torch alone")  # fmt: skip
    parser.add_argument("--quantize", choices=("int8",), help="weights as int8, a quarter of the size; scores change, by how much is said")  # fmt: skip
    parser.add_argument("--videos", nargs="+", metavar="INPUT", help="videos to compare on: files, folders, globs, lists (default: noise)")  # fmt: skip
    options = parser.parse_args(argv)
    if options.quantize and options.format != "onnx":
        raise UserError("--quantize int8 goes with --format onnx.")
    if options.format == "onnx":
        needs("onnx", "onnxscript", "onnxruntime")
    return options


if __name__ == "__main__":
    sys.exit(exit_cleanly(main)())
