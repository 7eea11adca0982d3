"""finetune.model.checkpoint_files: no command runs the code of a checkpoint, or reads weights from outside its folder."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from data_prep.errors import UserError, exit_cleanly
from data_prep.limits import is_plain_name
from finetune import evaluate, explain, export, hub, load, predict, run, space
from finetune.model.weights import load_checkpoint

PROCESSOR = "video_preprocessor_config.json"
CODE = 'open("MARK", "w").write("the code ran")\nclass Own:\n    pass\n'
COMMANDS: dict[str, Callable[[str, Path, Path], Any]] = {
    "predict": lambda model, video, dataset: predict.main([model, str(video)]),
    "timeline": lambda model, video, dataset: predict.main([model, str(video), "--timeline", "--window_seconds", "1"]),
    "stream": lambda model, video, dataset: predict.main([model, str(video), "--stream", "--window_seconds", "1"]),
    "evaluate": lambda model, video, dataset: evaluate.main([model, str(dataset)]),
    "explain": lambda model, video, dataset: explain.main([model, str(video), "--output", "heat.mp4"]),
    "export": lambda model, video, dataset: export.main([model, "exported", "--format", "torch_export"]),
    "hub check": lambda model, video, dataset: hub.main(["check", model]),
    "hub push": lambda model, video, dataset: hub.main(["push", model, "me/model"]),
    "space": lambda model, video, dataset: space.main([model, "--output", "app"]),
    "train": lambda model, video, dataset: run.main(
        ["--dataset_name", str(dataset), "--model_name_or_path", model, "--output_dir", "run", "--config", "none"]
    ),
}


@pytest.fixture
def copy(random_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint to spoil, as a finished run; the working folder is a new one, and standard input says yes."""
    folder = Path(shutil.copytree(random_checkpoint, tmp_path / "model"))
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n")
    (folder / "recipe.yaml").write_text("{}\n")
    (folder / "evil.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    return folder


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def own_processor(folder: Path) -> None:
    auto_map = {"AutoImageProcessor": "evil.Own", "AutoVideoProcessor": "evil.Own"}
    for name in (PROCESSOR, "preprocessor_config.json"):
        (folder / name).write_text(
            json.dumps({"video_processor_type": "Own", "image_processor_type": "Own", "auto_map": auto_map})
        )


def own_model(folder: Path) -> None:
    auto_map = {"AutoConfig": "evil.Own", "AutoModelForVideoClassification": "evil.Own"}
    edit(folder / "config.json", model_type="own", auto_map=auto_map)


def is_refused(command: str, model: Path, bars: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command on `model`; return its one line of standard error. `exit_cleanly` wraps some commands already."""
    returned: list[Any] = []
    ended = exit_cleanly(lambda: returned.append(COMMANDS[command](str(model), bars / "left" / "0.mp4", dataset)))()
    code = ended or returned[0]
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1, said.err
    assert "Do you wish to run" not in said.out + said.err
    return lines[0]


@pytest.mark.parametrize("spoil", [own_processor, own_model])
@pytest.mark.parametrize("command", COMMANDS)
def test_code_of_a_checkpoint_never_runs(
    command: str, spoil: Callable[[Path], None], copy: Path, bars: Path, bars_dataset: Path, capsys: Any
) -> None:
    spoil(copy)
    line = is_refused(command, copy, bars, bars_dataset, capsys)
    assert "code of its own" in line and str(copy) in line
    assert not (copy.parent / "MARK").exists()


def test_a_plain_checkpoint_may_have_a_code_file_beside_it(copy: Path) -> None:
    load_checkpoint(str(copy))
    assert not (copy.parent / "MARK").exists()


@pytest.mark.parametrize(
    "name", ["../other.safetensors", "/other.safetensors", "sub/other.safetensors", "..\\other", 7]
)
def test_an_index_of_weights_names_files_of_its_folder(copy: Path, name: object) -> None:
    weights = copy / "model.safetensors"
    state = load_file(weights)
    weights.unlink()
    save_file(state, copy.parent / "other.safetensors", metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(state, name)}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="outside its folder"):
        load(str(copy))


def test_sharded_weights_of_the_folder_load(copy: Path) -> None:
    weights = copy / "model.safetensors"
    state = load_file(weights)
    weights.rename(copy / "one.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(state, "one.safetensors")}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    load_checkpoint(str(copy))


def test_an_adapter_beside_the_model_is_told_and_not_read(copy: Path) -> None:
    (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else", "peft_type": "LORA"}')
    with pytest.raises(UserError, match="merge it first"):
        load_checkpoint(str(copy))


@pytest.mark.parametrize("place", ["state", "splits"])
def test_a_dataset_names_files_of_its_folder(place: str, bars_dataset: Path, tmp_path: Path) -> None:
    from finetune.clips.dataset import load_splits

    dataset = Path(shutil.copytree(bars_dataset, tmp_path / "dataset"))
    if place == "state":
        state = dataset / "test" / "state.json"
        (data,) = (file["filename"] for file in json.loads(state.read_text())["_data_files"])
        (dataset / "test" / data).rename(tmp_path / data)
        edit(state, _data_files=[{"filename": f"../../{data}"}])
    else:
        (dataset / "test").rename(tmp_path / "test")
        edit(dataset / "dataset_dict.json", splits=["train", "validation", "../test"])
    with pytest.raises(UserError, match="outside its folder"):
        load_splits(str(dataset), need_validation=True)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\\b", "C:\\a", "C:a", "a\0", None, 3, ["a"]])
def test_paths_are_no_plain_names(name: object) -> None:
    assert not is_plain_name(name)


@pytest.mark.parametrize("name", ["a", "a.b", "..a", "model-00001-of-00002.safetensors", "ä b"])
def test_plain_names(name: str) -> None:
    assert is_plain_name(name)
