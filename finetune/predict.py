"""python -m finetune.predict MODEL VIDEO [VIDEO...]: the likeliest labels of each video."""

from __future__ import annotations

import argparse
import csv
import glob
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import TimesformerVideoProcessor

from data_prep.errors import CommandLine, UserError, exit_cleanly
from data_prep.limits import VideoError
from data_prep.video import EXTENSIONS, probe_times, read_frames
from finetune.batch import ClipTransform, normalise
from finetune.modeling import TimesformerForVideoClassification
from finetune.sampling import Sampling
from finetune.weights import load_checkpoint

Row = dict[str, Any]


def main(argv: list[str] | None = None) -> list[Row]:
    """Prints and returns one row per video: `video` and `predictions`, or `video` and `error`."""
    options = parse_arguments(argv)
    videos = list(find_inputs(options.videos))
    model, processor = load_checkpoint(options.model)
    try:
        model.to(options.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {options.device} cannot be used: {str(error).splitlines()[0]}") from error
    rows = [predict_video(model, processor, video, options.top_k) for video in videos]
    write_rows(rows, options.format)
    if all("error" in row for row in rows):
        raise UserError(f"none of the {len(rows)} videos could be read; the first: {rows[0]['error']}.")
    return rows


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandLine(prog="python -m finetune.predict", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="TimeSformer checkpoint: a directory or a Hub id")
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="video files, folders of them, or quoted globs")
    parser.add_argument("--top_k", type=int, default=5, help="labels per video (default: 5)")
    parser.add_argument(
        "--format", choices=("table", "json", "csv"), default="table", help="of the output (default: table)"
    )
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    parser.add_argument("--device", default=str(device), help=f"default: {device}")
    options = parser.parse_args(argv)
    if options.top_k < 1:
        raise UserError(f"--top_k is {options.top_k}, expected at least 1.")
    return options


def find_inputs(inputs: list[str]) -> Iterator[str]:
    """Files as they are; the videos under a folder, sorted; what a glob matches. A missing file stays, for its error row."""
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            inside = sorted(
                str(file) for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS and file.name[0] != "."
            )
            if not inside:
                raise UserError(f"{text} holds no videos (extensions {' '.join(sorted(EXTENSIONS))}).")
            yield from inside
        elif not path.exists() and glob.has_magic(text):
            matches = sorted(glob.glob(text, recursive=True))
            if not matches:
                raise UserError(f"{text} matches no file.")
            yield from matches
        else:
            yield text


def predict_video(
    model: TimesformerForVideoClassification, processor: TimesformerVideoProcessor, video: str, top_k: int
) -> Row:
    """Scores of one clip of the whole video, sampled as the model was trained to see."""
    try:
        info, times = probe_times(video)
        sampling = Sampling.read_from(model.config)
        frames = sampling.frames(info.num_frames, info.fps, times)
        indices = sampling.evaluation(frames, model.config.num_frames)[0]
        clip = torch.from_numpy(read_frames(video, indices)).permute(0, 3, 1, 2)
    except (VideoError, ValueError) as error:
        return {"video": video, "error": str(error)}
    pixels = ClipTransform(processor).evaluate(clip).to(model.device)
    with torch.inference_mode():
        logits = model(pixel_values=normalise(pixels, processor)[None]).logits[0]
    scores, ids = logits.float().softmax(-1).topk(min(top_k, model.config.num_labels))
    names = model.config.id2label
    return {
        "video": video,
        "predictions": [{"label": names[i], "score": score} for i, score in zip(ids.tolist(), scores.tolist())],
    }


def write_rows(rows: list[Row], form: str) -> None:
    if form == "json":
        print(json.dumps(rows, indent=2))
        return
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("video", "label", "score", "error"))
        for row in rows:
            for prediction in row.get("predictions", []):
                writer.writerow((row["video"], prediction["label"], f"{prediction['score']:.4f}", ""))
            if "error" in row:
                writer.writerow((row["video"], "", "", row["error"]))
        return
    for row in rows:
        print(row["video"])
        for prediction in row.get("predictions", []):
            print(f"  {prediction['score']:7.2%}  {prediction['label']}")
        if "error" in row:
            print(f"  error: {row['error']}")


if __name__ == "__main__":
    sys.exit(exit_cleanly(main)())
