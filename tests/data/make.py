"""How tests/data/0.1.0 was made, by the code of that version. A later version adds a folder of its own and leaves this one.

PYTHONPATH=CHECKOUT_OF_0.1.0:CHECKOUT_OF_0.1.0/tests:tests python tests/data/make.py FOLDER
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from conftest import blobs, encode
from forks import stay_on_one_thread
from machine import kind_of_machine
from transformers import TimesformerConfig

from data_prep.errors import exit_cleanly
from data_prep.prepare import main as data_prep
from finetune import evaluate, export, folds, predict
from finetune.model.named_models import random_model
from finetune.model.processor import make_processor
from finetune.run import main as train
from finetune.results.output import write_json
from finetune.training.trainer import VideoTrainer

TRAIN = [
    "--model_name_or_path", "start", "--config", "none", "--num_train_epochs", "3", "--per_device_train_batch_size", "2",
    "--learning_rate", "3e-3", "--ema_decay", "0.8", "--head_dropout", "0.2", "--short_side_jitter", "24", "30",
    "--dataloader_num_workers", "0", "--report_to", "none", "--disable_tqdm", "true", "--use_cpu", "true",
]  # fmt: skip
LONG = [f"long/{name}.mp4" for name in ("one", "two", "three", "four", "five", "six")]


def make_videos() -> None:
    for name in ("down", "up"):
        for number in range(6):
            encode(Path("videos") / name / f"{number}.mp4", blobs(f"{name}{number}", num_frames=10, size=32))
    for path in LONG:
        encode(Path(path), blobs(path, num_frames=24, size=32))
    labelled = [f"videos/{name}/{i}.mp4,{name}{'|early' * (i % 2)}" for name in ("down", "up") for i in range(6)]
    Path("several.csv").write_text("\n".join(["path,labels", *labelled, ""]))
    spans = [f"{path},{span}" for path in LONG for span in ("down,0.2,1", "up,1.2,2.2")]
    Path("spans.csv").write_text("\n".join(["path,label,start,end", *spans, ""]))


def make_datasets() -> None:
    splits = ["--splits", "0.5", "0.25", "0.25", "--num_proc", "1"]
    data_prep(["videos", "embedded", "--embed", *splits])
    data_prep(["several.csv", "clips", "--store", "clips", *splits])
    data_prep(["spans.csv", "frames", "--store", "frames", *splits])
    data_prep(["videos", "folded", "--embed", "--folds", "3", "--num_proc", "1"])
    for pictures in Path().glob("*/report*"):  # 5 MB; no command reads them
        pictures.unlink() if pictures.is_file() else shutil.rmtree(pictures)


def make_start() -> None:
    config = TimesformerConfig(
        image_size=24, patch_size=8, num_frames=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        initializer_range=0.3, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1},
    )  # fmt: skip
    torch.manual_seed(0)
    random_model(config).save_pretrained("start")
    make_processor((24, 24), {"shortest_edge": 24}, 4, [0.45] * 3, [0.225] * 3).save_pretrained("start")


def stopped_by_sigterm(command: list[str], step: int) -> None:
    whole = VideoTrainer.training_step

    def training_step(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, *args, **kwargs)

    VideoTrainer.training_step = training_step
    assert exit_cleanly(train)(command) == 75
    VideoTrainer.training_step = whole


def make_runs() -> None:
    train(["--dataset_name", "embedded", "--output_dir", "finished", *TRAIN])
    train(["--dataset_name", "clips", "--output_dir", "several", *TRAIN])
    make_stopped_run()
    for model, dataset in (("finished", "embedded"), ("finished", "frames"), ("several", "clips")):
        outputs = ["--output", f"evaluated_{dataset}.json", "--predictions", f"evaluated_{dataset}.csv"]
        evaluate.main([model, dataset, "--split", "all", *outputs, "--device", "cpu", "--dataloader_num_workers", "0"])


def make_stopped_run() -> None:
    """And `gone_on`, what it becomes. Its last weights are kept, not the best, so that all steps count."""
    command = ["--dataset_name", "frames", "--output_dir", "stopped", *TRAIN, "--load_best_model_at_end", "false"]
    stopped_by_sigterm(command, step=4)
    shutil.copytree("stopped", "aside")
    train(command)
    Path("stopped").rename("gone_on")
    Path("aside").rename("stopped")


@contextmanager
def in_this_process(command: list[str], **_: Any) -> Iterator[SimpleNamespace]:
    train(command[2:])
    yield SimpleNamespace(wait=lambda: 0)


def make_folds() -> None:
    folds.subprocess = SimpleNamespace(Popen=in_this_process, DEVNULL=None)  # type: ignore[assignment]
    folds.main(["--dataset_name", "folded", "--output_dir", "folds", *TRAIN])
    Path("folds/folds.json").rename("folds.json")
    Path("folds/confusion_matrix.png").unlink()
    for fold in ("fold_1", "fold_2"):
        shutil.rmtree(f"folds/{fold}")


def make_predictions() -> None:
    """Whole, and torn as a kill leaves them: three videos, and a part of the fourth."""
    videos = sorted(map(str, Path("videos").glob("*/*.mp4")))
    for model, name in (("finished", "answers.jsonl"), ("finished", "answers.csv"), ("several", "several.jsonl")):
        predict.main([model, *videos, "--output", name, "--device", "cpu", "--num_workers", "0"])
        shutil.copy(name, f"whole_{name}")
        text = Path(name).read_text()
        Path(name).write_text(text[: text.index(videos[3]) + 30])


def drop_what_no_command_reads() -> None:
    """Pictures of runs; of the run that went on all but what it reached; checkpoints of runs that are not gone on with."""
    for picture in Path().glob("*/**/*.png"):
        picture.unlink()
    for folder in (*Path("several").glob("checkpoint-*"), *Path("folds/fold_0").glob("checkpoint-*")):
        shutil.rmtree(folder)
    for path in Path("gone_on").iterdir():
        if path.name not in ("model.safetensors", "metrics.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def save_without_traces(program: Any, path: Path) -> None:
    """torch's, without the folders of the machine, which stand in the stack trace of every operation."""
    for node in program.graph.nodes:
        for name in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn"):
            node.meta.pop(name, None)
    save(program, path)


save = torch.export.save


def make_export() -> None:
    torch.export.save = save_without_traces
    export.main(["finished", "torch_export", "--format", "torch_export"])


def main() -> None:
    stay_on_one_thread()
    made_on = kind_of_machine()
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    os.chdir(folder)
    make_videos()
    make_datasets()
    make_start()
    make_runs()
    make_folds()
    make_predictions()
    drop_what_no_command_reads()
    make_export()
    write_json(Path("made_on.json"), made_on)


if __name__ == "__main__":
    main()
