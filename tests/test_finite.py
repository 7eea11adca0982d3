"""finetune.model.finite: a checkpoint without usable numbers is one line that names the file, in every command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_checkpoint_files import COMMANDS

from data_prep.errors import UserError, exit_cleanly
from finetune import load
from finetune.model.finite import not_finite
from finetune.model.wanted import ModelArguments
from finetune.model.weights import load_checkpoint, load_start

NORM = "timesformer.layernorm.weight"
PROCESSOR = "video_preprocessor_config.json"
Spoil = Callable[[Path], None]


@pytest.fixture
def copy(random_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(random_checkpoint, tmp_path / "model"))
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n")
    (folder / "recipe.yaml").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    return folder


def of_json(file: str, **changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return spoil


def of_weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Spoil:
    def spoil(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        state[NORM] = change(state[NORM])
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def one(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda weight: weight.index_fill(0, torch.tensor([1]), value)


SPOILED: dict[str, tuple[Spoil, str]] = {
    "NaN weight": (of_weights(one(float("nan"))), NORM),
    "infinite weight": (of_weights(one(float("-inf"))), NORM),
    "integers": (of_weights(lambda weight: weight.to(torch.int64)), NORM),
    "bytes": (of_weights(lambda weight: weight.to(torch.uint8)), NORM),
    "booleans": (of_weights(lambda weight: weight > 0), NORM),
    "eps NaN": (of_json("config.json", layer_norm_eps=float("nan")), "layer_norm_eps is nan"),
    "eps 0": (of_json("config.json", layer_norm_eps=0.0), "layer_norm_eps is 0.0"),
    "eps negative": (of_json("config.json", layer_norm_eps=-1e-6), "layer_norm_eps is -1e-06"),
    "std 0": (of_json(PROCESSOR, image_std=[0.2, 0.0, 0.2]), "image_std"),
    "std tiny": (of_json(PROCESSOR, image_std=[1e-40] * 3), "image_std"),
    "std negative": (of_json(PROCESSOR, image_std=[-0.2] * 3), "image_std"),
    "std text": (of_json(PROCESSOR, image_std=["a", "b", "c"]), "image_std"),
    "mean NaN": (of_json(PROCESSOR, image_mean=[float("nan")] * 3), "image_mean"),
    "rescale NaN": (of_json(PROCESSOR, rescale_factor=float("nan")), "rescale_factor"),
    "rescale 0": (of_json(PROCESSOR, rescale_factor=0.0), "rescale_factor"),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_it_is_one_line_that_names_what_is_wrong(spoiled: str, copy: Path) -> None:
    spoil, named = SPOILED[spoiled]
    spoil(copy)
    with pytest.raises(UserError) as caught:
        load_checkpoint(str(copy))
    assert named in str(caught.value) and str(copy) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError):
        load_start(ModelArguments(model_name_or_path=str(copy)), ["a", "b"])


@pytest.mark.slow
@pytest.mark.parametrize("spoiled", ["NaN weight", "booleans", "eps NaN", "std tiny"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_it(
    command: str, spoiled: str, copy: Path, bars: Path, bars_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, named = SPOILED[spoiled]
    spoil(copy)
    returned: list[Any] = []
    ended = exit_cleanly(lambda: returned.append(COMMANDS[command](str(copy), bars / "left" / "0.mp4", bars_dataset)))()
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert (ended or returned[0]) == 2 and len(lines) == 1 and named in lines[0], said.err
    assert "nan" not in said.out


def test_weights_in_other_files_are_looked_at_too(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    state[NORM] = state[NORM].to(torch.int32)
    torch.save(state, copy / "pytorch_model.bin")
    with pytest.raises(UserError, match=f"pytorch_model.bin.*{NORM} .int32"):
        load_checkpoint(str(copy))
    (copy / "pytorch_model.bin").unlink()
    parts = {"one.safetensors": {NORM: state.pop(NORM)}, "two.safetensors": state}
    for file, part in parts.items():
        save_file(part, copy / file, metadata={"format": "pt"})
    places = {key: file for file, part in parts.items() for key in part}
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"index.json.*{NORM} .I32"):
        load_checkpoint(str(copy))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_type_is_fine(dtype: torch.dtype, copy: Path) -> None:
    state = {key: weight.to(dtype) for key, weight in load_file(copy / "model.safetensors").items()}
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    load_checkpoint(str(copy))


def test_scores_that_overflow_are_said(copy: Path, bars: Path) -> None:
    """Finite weights whose products are not: found at the first answer."""
    of_weights(lambda weight: weight * 0 + 3e38)(copy)
    with pytest.raises(UserError, match="NaN or infinite .computed in float32."):
        load(str(copy), "cpu").predict(bars / "left" / "0.mp4")


def test_large_numbers_are_no_infinity() -> None:
    tensors = {"large": torch.full((9,), 3e38), "nan": torch.tensor([1.0, float("nan")]), "int": torch.ones(2).int(), "none": torch.empty(0)}  # fmt: skip
    assert not_finite(tensors.items()) == ["nan"]
