"""Settings in pairs: each pair does what both promise, or is refused in words before the work."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from transformers import (
    Dinov2Config,
    Dinov2Model,
    EarlyStoppingCallback,
    TimesformerConfig,
    TimesformerForVideoClassification,
    TrainingArguments,
)

from data_prep.errors import UserError
from finetune import run
from finetune.clips.stream import StreamedClips
from finetune.model.processor import make_processor
from finetune.training.mixing import Mixing
from finetune.training.trainer import VideoTrainer

FAST = [
    "--no_flip", "--short_side_jitter", "24", "26", "--per_device_train_batch_size", "6", "--dataloader_num_workers", "0",
    "--report_to", "none", "--disable_tqdm", "true", "--max_steps", "1", "--learning_rate", "0.01",
]  # fmt: skip
# The name that does not warn.
CHECKPOINTING = "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"  # fmt: skip
FLAGS: dict[str, list[str]] = {
    "lora": ["--lora_rank", "2"],
    "linear_probe": ["--linear_probe"],
    "freeze_blocks": ["--freeze_blocks", "1"],
    "layer_decay": ["--layer_decay", "0.5"],
    "ema": ["--ema_decay", "0.5"],
    "mixing": ["--mixup_alpha", "0.8", "--cutmix_alpha", "1"],
    "checkpointing": [f"--{CHECKPOINTING}", "true"],
    "compiling": ["--torch_compile", "true", "--torch_compile_backend", "eager"],
    "several_labels": [],
    "streaming": ["--streaming"],
    "folds": ["--test_fold", "0"],
    "views": ["--eval_views", "2x1"],
    "class_weights": ["--class_weights", "balanced"],
    "early_stopping": ["--early_stopping_patience", "1"],
}
WITH_AN_IMAGE_MODEL = ("lora", "linear_probe", "checkpointing", "several_labels", "folds", "class_weights", "early_stopping")  # fmt: skip
PROBE_ALONE = r"--linear_probe trains the head alone: leave out "
REFUSED = {
    ("lora", "linear_probe"): PROBE_ALONE + "--lora_rank",
    ("linear_probe", "freeze_blocks"): PROBE_ALONE + "--freeze_blocks",
    ("linear_probe", "layer_decay"): PROBE_ALONE + "--layer_decay",
    ("linear_probe", "ema"): PROBE_ALONE + "--ema_decay",
    ("linear_probe", "mixing"): PROBE_ALONE + "--mixup_alpha and --cutmix_alpha",
    ("linear_probe", "early_stopping"): PROBE_ALONE + "--early_stopping_patience",
    ("linear_probe", "streaming"): "--streaming reads videos in the order they come",
    ("several_labels", "class_weights"): "several labels each: leave out --class_weights",
    ("streaming", "folds"): "--streaming is for Parquet files with splits, not for folds",
}


@dataclass(frozen=True)
class Trained:
    """A run of one step, and the weights it started from."""

    folder: Path
    trainer: VideoTrainer
    start: dict[str, torch.Tensor]
    mixed: int  # batches
    compiled: int  # graphs

    def changed(self) -> set[str]:
        """Names of the weights that are not those of the start."""
        after = load_file(self.folder / "model.safetensors")
        assert set(after) == set(self.start)
        return {name for name, weight in after.items() if not torch.equal(weight, self.start[name])}

    def document(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "metrics.json").read_text()))

    def state(self, name: str) -> Any:
        (checkpoint,) = self.folder.glob("checkpoint-*")
        return (
            torch.load(checkpoint / name, weights_only=True) if name.endswith(".pt") else load_file(checkpoint / name)
        )


# What each setting promises of a run, whatever else is set.


def lora(trained: Trained) -> None:
    changed = trained.changed()
    assert {name for name in changed if not name.startswith("classifier")} <= {
        name for name in trained.start if name.endswith(("qkv.weight", "dense.weight"))
    }
    assert any("layer.1." in name for name in changed), "the additions learned, and were merged"


def linear_probe(trained: Trained) -> None:
    assert trained.changed() == {"classifier.weight", "classifier.bias"}


def freeze_blocks(trained: Trained) -> None:
    changed = trained.changed()
    assert not any(".embeddings." in name or ".layer.0." in name for name in changed)
    assert any(".layer.1." in name for name in changed)


def layer_decay(trained: Trained) -> None:
    rates = {group["initial_lr"] for group in trained.state("optimizer.pt")["param_groups"]}
    assert {0.01, 0.005} <= rates <= {0.01 / 2**power for power in range(5)}


def ema(trained: Trained) -> None:
    """After a step from `start` the average has gone 9/10 of the way."""
    average, learned = trained.state("model.safetensors"), trained.state("training_weights.safetensors")
    weight = learned["classifier.bias"]
    assert float(weight.abs().max()) > 0
    torch.testing.assert_close(average["classifier.bias"], 0.9 * weight)
    for name, weight in load_file(trained.folder / "model.safetensors").items():
        if name in average:
            torch.testing.assert_close(weight, average[name])


def mixing(trained: Trained) -> None:
    assert trained.mixed == 1


def checkpointing(trained: Trained) -> None:
    if trained.trainer.learning.linear_probe:  # which has no step to recompute
        return
    assert any(getattr(module, "gradient_checkpointing", False) for module in trained.trainer.model.modules())
    assert any(".layer." in name for name in trained.changed())


def compiling(trained: Trained) -> None:
    assert trained.trainer.learning.linear_probe or trained.compiled


def several_labels(trained: Trained) -> None:
    config = json.loads((trained.folder / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification" and len(config["id2label"]) == 3
    assert "mean_average_precision" in " ".join(trained.document())


def streaming(trained: Trained) -> None:
    assert isinstance(trained.trainer.train_dataset, StreamedClips)


def folds(trained: Trained) -> None:
    with (trained.folder / "predictions.csv").open(newline="") as file:
        assert {row["video_id"] for row in csv.DictReader(file)} == {"left/0.mp4", "right/0.mp4"}


def views(trained: Trained) -> None:
    assert trained.document()["views"] == "2x1"


def class_weights(trained: Trained) -> None:
    torch.testing.assert_close(trained.trainer.loss.class_weights, torch.tensor([0.75, 1.5]))


def early_stopping(trained: Trained) -> None:
    assert any(isinstance(callback, EarlyStoppingCallback) for callback in trained.trainer.callback_handler.callbacks)


PROMISES: list[Callable[[Trained], None]] = [
    lora, linear_probe, freeze_blocks, layer_decay, ema, mixing, checkpointing, compiling, several_labels, streaming, folds,
    views, class_weights, early_stopping,
]  # fmt: skip


@pytest.fixture(scope="module")
def data(bars_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten videos in every form: four of left and two of right to train, two to validate, two to test; or in three folds."""
    numbers = {"test": ([0], [0]), "validation": ([1], [1]), "train": ([2, 3, 4, 5], [2, 3])}
    root = tmp_path_factory.mktemp("combinations")
    prepared = datasets.concatenate_datasets(list(datasets.load_from_disk(str(bars_dataset)).values()))
    place = {name: at for at, name in enumerate(prepared["video_id"])}
    plain = datasets.DatasetDict()
    for split, (left, right) in numbers.items():
        names = [f"left/{number}.mp4" for number in left] + [f"right/{number}.mp4" for number in right]
        plain[split] = prepared.select([place[name] for name in names])
    for form, splits in (("plain", plain), ("several", with_several_labels(plain))):
        splits.save_to_disk(str(root / form))
        (root / f"{form}_streaming" / "data").mkdir(parents=True)
        for split, rows in splits.items():
            rows.map(embedded).to_parquet(root / f"{form}_streaming" / "data" / f"{split}-00000-of-00001.parquet")
        folded = datasets.concatenate_datasets(list(splits.values())).add_column("fold", [0, 0, 1, 1, *[2] * 6])
        datasets.DatasetDict({"train": folded}).save_to_disk(str(root / f"{form}_folds"))
    return root


def embedded(row: dict[str, Any]) -> dict[str, Any]:
    return {"video": {"path": None, "bytes": row["video"]["bytes"] or Path(row["video"]["path"]).read_bytes()}}


def with_several_labels(splits: datasets.DatasetDict) -> datasets.DatasetDict:
    labels = datasets.List(datasets.ClassLabel(names=["left", "right", "bar"]))
    several = {
        split: rows.add_column("labels", [[label, 2] for label in rows["label"]])
        .remove_columns("label")
        .cast_column("labels", labels)
        for split, rows in splits.items()
    }
    return datasets.DatasetDict(several)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks, which look at two frames of 24 px."""
    folder = tmp_path_factory.mktemp("combinations") / "checkpoint"
    config = TimesformerConfig(
        image_size=24, patch_size=12, num_frames=2, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        TimesformerForVideoClassification(config).save_pretrained(folder)
    make_processor((24, 24), {"shortest_edge": 24}, 2, [0.45] * 3, [0.225] * 3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("combinations") / "image_model"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = Dinov2Config(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2)  # fmt: skip
        Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture
def trained(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trained]:
    """Trains a step with some of `FLAGS`, from a model."""
    found: dict[str, Any] = {}
    mixed: list[int] = []
    make_trainer, mix = run.make_trainer, Mixing.__call__

    def watched(*args: Any) -> VideoTrainer:
        found["trainer"] = trainer = make_trainer(*args)
        weights = trainer.model.state_dict()
        plain = {
            name.replace(".base_layer", ""): weight.clone() for name, weight in weights.items() if "lora_" not in name
        }
        found["start"] = plain
        return trainer

    def counted(self: Mixing, *args: Any) -> Any:
        mixed.append(1)
        return mix(self, *args)

    monkeypatch.setattr(run, "make_trainer", watched)
    monkeypatch.setattr(Mixing, "__call__", counted)
    monkeypatch.setattr("finetune.training.trainer.plot_batch", lambda *args: None)

    def train(model: Path, names: tuple[str, ...], *more: str) -> Trained:
        form = "several" if "several_labels" in names else "plain"
        form += "_streaming" if "streaming" in names else "_folds" if "folds" in names else ""
        flags = [word for name in names for word in FLAGS[name]]
        torch._dynamo.reset()
        counters.clear()
        places = ["--dataset_name", str(data / form), "--output_dir", str(tmp_path / "out")]
        run.main([*places, "--model_name_or_path", str(model), *FAST, *flags, *more])
        return Trained(tmp_path / "out", found["trainer"], found["start"], len(mixed), counters["frames"]["ok"])

    return train


def marked(names: tuple[str, ...]) -> Any:
    return pytest.param(names, id="-".join(names), marks=[pytest.mark.extra("peft")] if "lora" in names else [])


def check(trained: Trained, names: tuple[str, ...]) -> None:
    for promise in PROMISES:
        if promise.__name__ in names:
            promise(trained)
    _, info = TimesformerForVideoClassification.from_pretrained(trained.folder, output_loading_info=True)
    assert not any(info.values()), "a plain checkpoint"


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("names", [marked(names) for count in (1, 2) for names in combinations(FLAGS, count)])
def test_two_settings_keep_their_promises_or_are_refused(
    names: tuple[str, ...], checkpoint: Path, trained: Callable[..., Trained], tmp_path: Path
) -> None:
    if names in REFUSED:
        with pytest.raises(UserError, match=REFUSED[names]):
            trained(checkpoint, names, "--config", "none")
        assert not (tmp_path / "out" / "recipe.yaml").exists()
    else:
        check(trained(checkpoint, names, "--config", "none"), names)


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("names", [marked((name,)) for name in WITH_AN_IMAGE_MODEL])
def test_each_goes_with_an_image_model_and_the_recipe_for_few_videos(
    names: tuple[str, ...], image_model: Path, trained: Callable[..., Trained], capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe has a start from the videos, frozen blocks, layer decay and an average besides."""
    done = trained(image_model, names, "--num_frames", "4", "--warmup_steps", "0")
    said = capsys.readouterr().out
    assert "are those of --config small_data" in said and "(chosen)" in said and "time: " in said
    # What the others promise is measured from the weights before their start from the videos.
    check(done, names if names[0] not in ("lora", "linear_probe") else ())
