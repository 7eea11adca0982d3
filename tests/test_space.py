"""finetune.space: the app it writes stands alone, and predicts what we do."""

from __future__ import annotations

import ast
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import yaml
from conftest import Run
from test_contract import save  # noqa: F401

from data_prep.errors import UserError
from finetune import space
from finetune.clips.sampling import Sampling
from finetune.model.modeling import TimesformerForVideoClassification
from finetune.predict import main as predict
from finetune.sharing.contract import clip_of


@pytest.fixture
def written(save: Callable[..., Path], tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:  # noqa: F811
    def write(**changes: Any) -> Path:
        folder = save(**changes)
        (folder / "README.md").write_text("card")
        monkeypatch.setattr(space, "check", lambda _: "checked")  # tests/test_contract.py does
        output = tmp_path_factory.mktemp("space") / "app"
        space.write_space(str(folder), output)
        return output

    return write


def app(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The app's names; Gradio's own part is tried by hand, in a browser."""
    gradio = MagicMock(spec=ModuleType)
    gradio.Error, gradio.Blocks, gradio.Row, gradio.Column = (
        type("Error", (Exception,), {}),
        MagicMock(),
        MagicMock(),
        MagicMock(),
    )
    for name in ("Markdown", "Video", "Button", "Label", "Gallery"):
        setattr(gradio, name, MagicMock())
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    scope: dict[str, Any] = {"__name__": "app", "__file__": str(folder / "app.py")}
    exec((folder / "app.py").read_text(), scope)
    return scope


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time"])
def test_the_app_predicts_and_shows_what_we_do(
    written: Callable[..., Path], ramp_video: Path, monkeypatch: pytest.MonkeyPatch, attention_type: str
) -> None:
    folder = written(attention_type=attention_type, sampling=Sampling("dense", 2))
    scope = app(folder, monkeypatch)
    assert scope["gr"].Video.call_args.kwargs["sources"] == ["upload", "webcam"]
    scores, frames, overlays = scope["classify"](str(ramp_video))
    ours = predict([str(folder / "model"), str(ramp_video), "--device", "cpu"])[0]["predictions"]
    assert scores == pytest.approx({one["label"]: one["score"] for one in ours}, abs=1e-5)
    shown = [int(frame.mean().round()) for frame in frames]
    read = [int(frame.mean().round()) for frame in clip_of(str(ramp_video), folder / "model")]
    assert shown == pytest.approx(read, abs=1)
    assert len(overlays) == 4 and overlays[0].shape == frames[0].shape and overlays[0].dtype == frames[0].dtype
    broken = folder / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(scope["gr"].Error, match="cannot be read as a video"):
        scope["classify"](str(broken))


def test_attention_lies_where_the_maps_say(written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    scope = app(written(attention_type="joint_space_time"), monkeypatch)
    side = scope["model"].config.image_size // scope["model"].config.patch_size
    maps = torch.zeros(1, 3, 1 + 4 * side**2, 1 + 4 * side**2)
    maps[..., 0, 1 + 4 * 5 + 2] = 1  # patch 5 of frame 2: the frames of a patch lie innermost
    heat = scope["attention"](maps, 4)
    assert heat[2].flatten()[5] == pytest.approx(1) and heat.sum() == pytest.approx(1)


def test_the_folder_is_whole_and_needs_nothing_of_this_project(written: Callable[..., Path]) -> None:
    folder = written()
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"app.py", "README.md", "requirements.txt", "model/config.json", "model/model.safetensors", "model/video_preprocessor_config.json"}  # fmt: skip
    nodes = list(ast.walk(ast.parse((folder / "app.py").read_text())))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) if node.module}
    assert modules == {"pathlib", "av", "gradio", "numpy", "torch", "transformers"}
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio" and front["app_file"] == "app.py"
    assert all("==" in line for line in (folder / "requirements.txt").read_text().splitlines())


def test_the_same_command_goes_on_and_leaves_everything_else_alone(
    save: Callable[..., Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, output = save(), tmp_path / "app"
    (model / "README.md").write_text("card")
    monkeypatch.setattr(space, "check", lambda _: "checked")
    names = space.write_space(str(model), output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    (output / ".gradio").mkdir()  # left by a try
    assert space.write_space(str(model), output) == names and ".gradio" not in "".join(names)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.is_file())
    (output / "model" / "model.safetensors").write_bytes(b"of another run")
    with pytest.raises(UserError, match=r"exists, and its model/model\.safetensors is not what this command writes"):
        space.write_space(str(model), output)
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="mine exists: choose another"):
        space.write_space(str(model), tmp_path / "mine")


@pytest.mark.slow
def test_an_upload_that_failed_halfway_goes_on_with_the_same_command(
    hub: Any,
    python: Run,
    save: Callable[..., Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    model = save()
    (model / "README.md").write_text("card")
    words = (str(model), "--output", "app", "--push", "me/app")
    unchecked = "import sys; from finetune import space; space.check = lambda _: 'checked'; sys.exit(space.main())"
    command = ("-c", unchecked, *words)  # tests/test_contract.py checks
    hub.add_fault(match="/commit/", status=403, count=1)
    failed = python(*command)
    assert failed.returncode == 2 and "Nothing is lost: everything is in app" in failed.stderr, failed.stderr
    assert f"When it is mended: python -m finetune.space {shlex.join(words)}" in failed.stderr
    done = python(*command)
    assert done.returncode == 0 and "pushed to" in done.stdout, done.stderr
    there = hub.files("me/app", "space")
    assert {"app.py", "README.md", "requirements.txt", "model/model.safetensors"} < set(there)
    assert there["app.py"] == (tmp_path / "app" / "app.py").read_bytes()
    commits = len(hub.history("me/app", "space"))
    assert python(*command).returncode == 0 and len(hub.history("me/app", "space")) == commits


def test_hostile_names_stay_text(save: Callable[..., Path]) -> None:  # noqa: F811
    folder = save()
    model = TimesformerForVideoClassification.from_pretrained(folder)
    nasty = '"""); import os  # {{ 7*7 }}\n---\nsdk: docker'
    files = space.app_files(nasty, True, model.config)
    ast.parse(files["app.py"])
    assert "import os" not in files["app.py"] and "49" not in files["app.py"]
    assert yaml.safe_load(files["README.md"].split("\n---\n\nUpload")[0].removeprefix("---\n"))["sdk"] == "gradio"


def test_a_scheme_that_transformers_lacks_is_refused(written: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="axial attention"):
        written(attention_type="axial")
