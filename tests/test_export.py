"""python -m finetune.export: the same answers without this project."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ORIENTATIONS, blobs, encode, turned
from forks import Forks

from data_prep.errors import UserError
from data_prep.video import read_frames
from finetune import load
from finetune.export import main
from finetune.predict import main as predict
from finetune.use.export_example import example_script, preprocessing
from finetune.use.exported import compare


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wider than high, by an odd number of px once it is resized: the middle is then between two."""
    return encode(tmp_path_factory.mktemp("export") / "v.mp4", blobs("export", num_frames=21, size=64)[:, :46])


@pytest.fixture(autouse=True)
def timed_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.use.exported._TIMED_SECONDS", 0.0)


def run_example(folder: Path, video: Path) -> dict[str, float]:
    """By a Python that cannot see this project."""
    done = subprocess.run(
        [sys.executable, "-I", str(folder / "example.py"), str(video)], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    lines = (line.split(maxsplit=1) for line in done.stdout.splitlines())
    return {label: float(score.rstrip("%")) / 100 for score, label in lines}


def check_example(checkpoint: str, folder: Path, *videos: Path) -> None:
    rows = predict([checkpoint, *map(str, videos), "--device", "cpu", "--num_workers", "0"])
    for video, row in zip(videos, rows):
        ours = {one["label"]: one["score"] for one in row["predictions"]}
        theirs = run_example(folder, video)
        assert next(iter(theirs)) == next(iter(ours)) and theirs.keys() == ours.keys()
        assert max(abs(theirs[label] - ours[label]) for label in ours) < 1e-3


@pytest.mark.slow
def test_a_torch_program_gives_our_scores_without_us(random_checkpoint: str, video: Path, tmp_path: Path) -> None:
    facts = main([random_checkpoint, str(tmp_path / "out"), "--format", "torch_export"])
    assert facts["agreement"]["model.pt2"]["logits"] < 1e-4 and facts["latency_ms"].keys() == {"PyTorch", "model.pt2"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.pt2", "preprocessing.json", "example.py", "export.json"}  # fmt: skip
    assert json.loads((tmp_path / "out" / "preprocessing.json").read_text())["labels"] == load(random_checkpoint).labels
    check_example(random_checkpoint, tmp_path / "out", turned(video, (0, 1, -1, 0)))
    with pytest.raises(UserError, match="exists"):
        main([random_checkpoint, str(tmp_path / "out"), "--format", "torch_export"])


@pytest.mark.slow
@pytest.mark.extra("onnx", "onnxscript", "onnxruntime")
@pytest.mark.parametrize(
    "sampling",
    [
        {"clip_sampling": "segments"},
        {"clip_sampling": "dense", "clip_frame_stride": 2, "clip_target_fps": 7.0},
    ],
)
def test_an_onnx_program_of_each_other_sampling(
    sampling: dict, random_checkpoint: str, video: Path, tmp_path: Path, edited: Callable[[dict], str]
) -> None:
    checkpoint = edited(sampling)
    facts = main([checkpoint, str(tmp_path / "out"), "--format", "onnx", "--videos", str(video)])
    assert facts["agreement"]["model.onnx"]["logits"] < 1e-4 and facts["agreement"]["model.onnx"]["num_clips"] == 1
    check_example(checkpoint, tmp_path / "out", video, turned(video, (0, 1, 1, 0)))


def test_preprocessing_has_the_steps_that_the_processor_has(random_checkpoint: str) -> None:
    classifier = load(random_checkpoint)
    classifier.processor.do_normalize = classifier.processor.do_rescale = False
    found = preprocessing(classifier)
    assert (found["rescale"], found["mean"], found["std"]) == (1.0, [0.0] * 3, [1.0] * 3)


def test_the_example_stays_short(random_checkpoint: str) -> None:
    lines = example_script(load(random_checkpoint, "cpu"), "model.onnx").splitlines()
    assert len([line for line in lines if line and not line.startswith(('"""', "import ", "from "))]) <= 21


@pytest.mark.parametrize("linear", ORIENTATIONS)
def test_the_examples_pictures_are_ours_however_the_phone_was_held(
    linear: tuple[int, int, int, int], random_checkpoint: str, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = load(random_checkpoint, "cpu")
    film = turned(video, linear)
    monkeypatch.setattr(sys, "argv", ["example.py", str(film)])
    head, _, rest = example_script(classifier, "model.pt2").partition("\np = ")
    functions = rest[rest.index("\n\ndef decode") : rest.index("\ncount")]
    scope: dict[str, Any] = {"p": preprocessing(classifier)}
    exec(head + functions, scope)
    theirs = np.stack([scope["picture"](frame) for frame in scope["decode"]()])
    ours = classifier.pixels(read_frames(film, range(21)))[0].permute(0, 2, 3, 1).numpy()
    assert theirs.shape == ours.shape and np.abs(theirs.astype(int) - ours).mean() < 1


def test_of_several_labels_the_example_says_which_are_given(edited: Callable[[dict], str]) -> None:
    thresholds = [0.25, 0.5, 0.75, 0.5, 0.5, 0.5, 0.5]
    classifier = load(edited({"problem_type": "multi_label_classification", "label_thresholds": thresholds}), "cpu")
    assert preprocessing(classifier)["thresholds"] == thresholds
    lines = example_script(classifier, "model.onnx").partition("\nscores = ")
    scope = {"logits": np.log([1 / 2, 1, 2, 1 / 3, 1 / 4, 1 / 5, 2]), "p": preprocessing(classifier), "np": np}
    told: list[str] = []
    exec("".join(lines[1:]), {**scope, "print": told.append})
    assert [" ".join(line.split()) for line in told] == [
        "66.67% class 6 (given)", "66.67% class 2", "50.00% class 1 (given)", "33.33% class 0 (given)", "25.00% class 3",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.extra("onnx", "onnxscript", "onnxruntime")
def test_int8_is_smaller_and_says_how_far_it_is_off(random_checkpoint: str, tmp_path: Path) -> None:
    facts = main([random_checkpoint, str(tmp_path / "out"), "--format", "onnx", "--quantize", "int8"])
    assert facts["megabytes"]["model.int8.onnx"] < 0.4 * facts["megabytes"]["model.onnx"]
    assert facts["agreement"]["model.int8.onnx"]["scores"] < 0.1
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_a_program_that_differs_is_refused() -> None:
    import torch

    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    found = compare(logits, logits + torch.tensor([[0.0, 0.0], [0.0, 1e-3]]))
    assert found.logits == pytest.approx(1e-3, rel=1e-3) and found.top1 == 1 and found.num_clips == 2
    with pytest.raises(UserError, match="differ from the model's by 1.0e-03"):
        found.check(largest_logit=3.0)
    compare(logits, logits + 1e-5).check(largest_logit=3.0)


def test_int8_goes_with_onnx(random_checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="goes with --format onnx"):
        main([random_checkpoint, str(tmp_path / "out"), "--format", "torch_export", "--quantize", "int8"])


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing(random_checkpoint: str, tmp_path: Path, forks: Forks) -> None:
    """As far as the command can see: no file may be longer than 100 kB."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from data_prep.errors import exit_cleanly; from finetune.export import main; sys.exit(exit_cleanly(main)())"
    )
    done = forks.run("-c", code, random_checkpoint, "out", "--format", "torch_export", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: File too large")
    assert not any(tmp_path.iterdir())
