"""How well few real clips are learnt, beside what frozen features give: one row a run, each with its command and time.

    python benchmarks/accuracy.py IMAGE_MODEL WORK FOLDER...                     every row, three seeds
    python benchmarks/accuracy.py IMAGE_MODEL WORK FOLDER... --rows 'frozen*' 'small_data/*' --seeds 0
    python benchmarks/accuracy.py IMAGE_MODEL WORK FOLDER... --rows none         the tables of the rows there are

IMAGE_MODEL: a ViT, DeiT or DINOv2 checkpoint. FOLDER: videos with lists of a train and a test split. Needs the extra
`bench`. Rows: frozen/SET, frozen/SET-arrow, ordered/SET-arrow (logistic regression on frozen class tokens of the middle
frames of the segments, averaged or side by side), frozen-drawn/SET (likewise averaged, fitted to frames drawn at random
from the segments, as training draws them, and asked of the middle ones; the mean of many draws), linear_probe/SET (the
recipe), small_data/SET/SEED, small_data/SET-arrow/SEED, SCHEME/SET/SEED and SCHEME/SET-arrow/SEED for the attention
schemes, demo/SCHEME/SEED, and guide/SET/SEED, guide-random/SET/SEED: the settings of transformers' task guide for video
classification. The guide samples and augments with pytorchvideo, which no longer imports; its dense clips, short sides
256 to 320 for a crop of 224, crops and flips are those of this project here.

SET-arrow: the same clips forward and backward, two labels. Finished rows are appended to WORK/rows.jsonl and never run
again; videos and runs lie in WORK.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets, load_from_disk
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from finetune.clips.batch import ClipTransform, normalise
from finetune.clips.clip import ClipMaker, Clips
from finetune.clips.sampling import Sampling
from finetune.model.layer import ATTENTION_TYPES
from finetune.model.wanted import ModelArguments
from finetune.model.weights import load_start

NUM_FRAMES, CROP = 8, 112
# Of a clip played both ways: three frames of each eighth, whose middle one is the same both ways.
ARROW_FRAMES = 3 * NUM_FRAMES
DRAWS, PARTS = 20, 3  # of frozen-drawn: how many, and from how many frames a segment
# All training videos train, as in the frozen rows.
CLIPS = ["--image_size", str(CROP), "--num_frames", str(NUM_FRAMES), "--eval_strategy", "no", "--bf16", "true"]

Row = Callable[[], dict[str, Any]]


class Accuracy:
    """What every row needs: the image model, and where data and runs lie."""

    def __init__(self, image_model: str, work: Path, folders: list[Path]):
        self.image_model, self.work = image_model, work
        self.folders = {folder.name: folder for folder in folders}
        self.known: dict[tuple[Path, int], list[tuple[torch.Tensor, list[int]]]] = {}

    def rows(self, seeds: list[int]) -> Iterator[tuple[str, Row]]:
        """(name, what runs it)."""
        probe = ["--config", "linear_probe", "--model_name_or_path", self.image_model, *CLIPS]
        for name in self.folders:
            for kind in ("frozen", "ordered"):
                yield f"{kind}/{name}-arrow", lambda name=name, kind=kind: self.frozen(self.arrow(name), kind)
            for kind in ("frozen", "frozen-drawn"):
                yield f"{kind}/{name}", lambda name=name, kind=kind: self.frozen(self.prepared(name), kind)
            yield f"linear_probe/{name}", lambda name=name: self.run(probe, self.prepared(name))
            for seed in seeds:
                yield from self.trained(name, seed)
        for scheme in ATTENTION_TYPES:
            for seed in seeds:
                # In the recipe's 14 epochs joint attention is still learning.
                flags = ["--config", "demo", "--attention_type", scheme, "--num_train_epochs", "40"]
                flags += ["--seed", str(seed)]
                yield f"demo/{scheme}/{seed}", lambda flags=flags: self.run(flags, self.work / "demo")

    def trained(self, name: str, seed: int) -> Iterator[tuple[str, Row]]:
        clips = [*CLIPS, "--seed", str(seed)]
        image = ["--model_name_or_path", self.image_model]
        small = ["--config", "small_data", *image, *clips]
        guide = ["--config", "none", "--num_train_epochs", "4", "--learning_rate", "5e-5", "--warmup_steps", "0.1",
                 "--sampling", "dense", "--frame_stride", "4", *clips]  # fmt: skip
        random = ["--model_name_or_path", "timesformer-small"]
        settings = {"small_data": small, "guide": [*guide, *image], "guide-random": [*guide, *random]}
        for scheme in ATTENTION_TYPES:
            settings[scheme] = [*small, "--attention_type", scheme, "--time_start", "zeros"]
        for kind, flags in settings.items():
            yield f"{kind}/{name}/{seed}", lambda flags=flags: self.run(flags, self.prepared(name))
        yield f"small_data/{name}-arrow/{seed}", lambda: self.run(small, self.arrow(name))
        for scheme in ATTENTION_TYPES:
            # A mirrored clip goes the same way in time, so clips are flipped here too.
            flags = [*small, "--attention_type", scheme, "--drop_path_rate", "0"]
            flags += [] if scheme == "space_only" else ["--time_start", "contrast"]
            yield f"{scheme}/{name}-arrow/{seed}", lambda flags=flags: self.run(flags, self.arrow(name))

    def prepared(self, name: str) -> Path:
        """The folder's own splits; frames as JPEGs."""
        dataset = self.work / name
        if not dataset.exists():
            subprocess.run(
                [sys.executable, "-m", "data_prep", str(self.folders[name]), str(dataset), "--store", "frames",
                 "--short_side", "160", "--keep_conflicts"], check=True,
            )  # fmt: skip
        return dataset

    def arrow(self, name: str) -> Path:
        """Both directions of a clip lie in its split."""
        source, target = self.prepared(name), self.work / f"{name}-arrow"
        if not target.exists():
            splits = load_from_disk(str(source))
            DatasetDict({split: both_ways(rows) for split, rows in splits.items()}).save_to_disk(str(target))
            shutil.copy(source / "summary.json", target)
        return target

    def frozen(self, dataset: Path, kind: str) -> dict[str, Any]:
        """Logistic regression of scikit-learn's default strength on standardised features of all training videos."""
        parts = PARTS if kind == "frozen-drawn" else 1
        if (dataset, parts) not in self.known:
            splits = load_from_disk(str(dataset))
            train = concatenate_datasets([splits[split] for split in splits if split != "test"])
            self.known[dataset, parts] = [self.class_tokens(rows, parts) for rows in (train, splits["test"])]
        (known, labels), (asked, answers) = self.known[dataset, parts]
        asked = asked[:, parts // 2 :: parts]
        drawn = [known] if parts == 1 else [one_of_each_segment(known, seed) for seed in range(DRAWS)]
        join = (lambda tokens: tokens.flatten(1)) if kind == "ordered" else (lambda tokens: tokens.mean(1))
        right = []
        for tokens in drawn:
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
            right.append(model.fit(join(tokens).numpy(), labels).score(join(asked).numpy(), answers))
        return {"top1": statistics.mean(right), "draws": right, "videos": len(answers), "command": " ".join(sys.argv)}

    @torch.no_grad()
    def class_tokens(self, rows: Dataset, parts: int) -> tuple[torch.Tensor, list[int]]:
        """The image model's class token of the middle frame of each of `parts` parts of each of NUM_FRAMES segments, in
        order: float32 (videos, NUM_FRAMES * parts, hidden_size), and the labels."""
        wanted = ModelArguments(self.image_model, num_frames=1, image_size=[CROP], attention_type="space_only")
        start = load_start(wanted, ["a", "b"])
        maker = ClipMaker(NUM_FRAMES * parts, ClipTransform(start.processor), Sampling("segments"))
        clips = Clips(rows, maker, training=False)
        backbone, tokens = start.model.eval().timesformer, []
        for i in range(len(clips)):
            frames = normalise(clips[i]["pixel_values"], start.processor)[:, None]
            tokens.append(backbone(frames, class_only=True).last_hidden_state[:, 0])
        return torch.stack(tokens), list(rows["label"])

    def run(self, flags: list[str], dataset: Path) -> dict[str, Any]:
        """One run of finetune/run.py in a process of its own."""
        flags = [*flags, "--dataset_name", str(dataset)]
        output = self.work / "run"
        script = Path(__file__).parents[1] / "finetune" / "run.py"
        command = [sys.executable, str(script), *flags, "--output_dir", str(output), "--overwrite_output_dir"]
        subprocess.run([*command, "--report_to", "none"], check=True)
        metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
        return {"top1": metrics["test_top1"], "command": " ".join(["finetune/run.py", *flags])}


def one_of_each_segment(tokens: torch.Tensor, seed: int) -> torch.Tensor:
    """(videos, NUM_FRAMES * PARTS, hidden_size) -> (videos, NUM_FRAMES, hidden_size), drawn for each video by itself."""
    segments = tokens.unflatten(1, (NUM_FRAMES, PARTS))
    drawn = torch.randint(PARTS, segments.shape[:2], generator=torch.Generator().manual_seed(seed))
    return segments.take_along_dim(drawn[:, :, None, None], 2).squeeze(2)


def both_ways(rows: Dataset) -> Dataset:
    """Every clip as ARROW_FRAMES frames, evenly over it, once in order and once in the opposite one."""
    names = ["backward", "forward"]

    def played(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        (frames,), (length,) = batch["frames"], batch["num_frames"]
        picked = [frames[i * (length - 1) // (ARROW_FRAMES - 1)] for i in range(ARROW_FRAMES)]
        return {
            "video_id": [f"{batch['video_id'][0]} {name}" for name in names],
            "group": batch["group"] * 2,
            "label": [0, 1],
            "frames": [picked[::-1], picked],
            "num_frames": [ARROW_FRAMES] * 2,
            "height": batch["height"] * 2,
            "width": batch["width"] * 2,
        }

    features = rows.features.copy()
    features["label"] = ClassLabel(names=names)
    for unknown in ("fps", "duration", "frame_times"):
        del features[unknown]
    return rows.map(played, batched=True, batch_size=1, remove_columns=rows.column_names, features=features)


def table(done: list[dict[str, Any]]) -> str:
    """Mean top-1 over seeds; the smallest and largest where there are several."""
    lines = ["| row | seeds | test top-1 | seconds of a run |", "|---|---|---|---|"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in done:
        kind, name, *_ = row["row"].split("/")
        groups.setdefault(f"{kind}/{name}", []).append(row)
    for group, rows in sorted(groups.items()):
        top1, seconds = [row["top1"] for row in rows], [row["seconds"] for row in rows]
        spread = f" ({min(top1):.3f} to {max(top1):.3f})" if len(rows) > 1 else ""
        lines.append(f"| {group} | {len(rows)} | {statistics.mean(top1):.3f}{spread} | {max(seconds):.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image_model")
    parser.add_argument("work", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--rows", nargs="+", default=["*"], help="patterns of names")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    record = asked.work / "rows.jsonl"
    done = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    for name, run in Accuracy(asked.image_model, asked.work, asked.folders).rows(asked.seeds):
        wanted = any(fnmatch(name, pattern) for pattern in asked.rows)
        if not wanted or name in [row["row"] for row in done]:
            continue
        started = time.monotonic()
        done.append({"row": name, **run(), "seconds": round(time.monotonic() - started, 1)})
        with record.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(done[-1], allow_nan=False) + "\n")
    print(table(done))


if __name__ == "__main__":
    main()
