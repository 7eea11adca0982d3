"""finetune.sharing.contract: what plain transformers makes of a checkpoint, in a process of its own, is what we make of it."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from conftest import ORIENTATIONS, blobs, encode, turned
from safetensors.torch import load_file, save_file

from data_prep.errors import UserError
from data_prep.video import probe_times, read_frames
from finetune.clips.sampling import Sampling
from finetune.model.modeling import TimesformerForVideoClassification
from finetune.model.named_models import NAMED_MODELS
from finetune.model.processor import make_processor, tell_sampling
from finetune.results.templates import read_clip_code
from finetune.sharing import contract
from finetune.sharing.contract import Clips, check, clip_of


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def saved(sampling: Sampling = Sampling(), **changes: Any) -> Path:  # noqa: B008 (frozen)
        from transformers import TimesformerConfig

        config = TimesformerConfig(**NAMED_MODELS["timesformer-tiny"] | {"num_frames": 4} | changes)
        config.id2label, config.label2id = {0: "left", 1: "right"}, {"left": 0, "right": 1}
        sampling.write_to(config)
        torch.manual_seed(0)
        model = TimesformerForVideoClassification(config)
        torch.nn.init.normal_(model.classifier.weight)
        side = config.image_size
        crop = (side, side) if isinstance(side, int) else (side[0], side[1])
        processor = make_processor(crop, {"shortest_edge": max(crop)}, 4, [0.45] * 3, [0.225] * 3)
        tell_sampling(processor, sampling)
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        return tmp_path

    return saved


@pytest.mark.slow
def test_plain_transformers_agrees_and_what_differs_is_told(
    save: Callable[..., Path], ramp_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, answers = save(), []
    clip = clip_of(str(ramp_video), folder)

    def asked(given: Path, clips: list[np.ndarray]) -> Any:
        """The fresh process once; what it said of these weights is then held against others."""
        if not answers:
            answers.extend(ask(given, clips))
        return answers

    ask = contract._ask_plain_transformers
    monkeypatch.setattr(contract, "_ask_plain_transformers", asked)
    assert "alone gives the same predictions" in check(folder, Clips([clip]))
    ours = load_file(folder / "model.safetensors")
    moved = {**ours, "classifier.bias": ours["classifier.bias"] + torch.tensor([0.01, 0])}
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"plain transformers' logits are 0\.01 from ours.*not pushed"):
        check(folder, Clips([clip]))
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(UserError, match="is not a whole TimeSformer checkpoint"):
        check(folder, Clips([clip]))


@pytest.mark.slow
def test_the_pipeline_refuses_a_model_that_samples_otherwise_and_the_frames_still_work(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, answers = save(Sampling("dense", 3)), []

    def asked(given: Path, clips: list[np.ndarray]) -> Any:
        answers.extend(ask(given, clips))
        return answers

    ask = contract._ask_plain_transformers
    monkeypatch.setattr(contract, "_ask_plain_transformers", asked)
    assert "alone gives the same predictions" in check(folder)
    assert "mutually exclusive" in answers[0]["refusal"] and len(answers[0]["logits"]) == 2


@pytest.mark.parametrize("changes", [{"attention_type": "axial"}, {"image_size": [36, 48]}], ids=["axial", "rectangle"])
def test_what_transformers_lacks_is_compared_with_our_class(save: Callable[..., Path], changes: dict[str, Any]) -> None:
    assert "our class, loaded anew" in check(save(**changes))


def test_what_training_measured_must_come_back_from_disk(save: Callable[..., Path]) -> None:
    folder = save(attention_type="axial")
    clip = np.full((4, 60, 60, 3), 90, np.uint8)
    with pytest.raises(UserError, match="from those that were measured after training"):
        check(folder, Clips([clip], np.array([[2.0, -1.0]], np.float32)))


@pytest.mark.parametrize(
    ("file", "changes"), [("config.json", {"num_attention_heads": 7}), ("video_preprocessor_config.json", None)]
)
def test_a_check_that_breaks_is_one_message_with_the_reason(
    save: Callable[..., Path], file: str, changes: dict[str, Any] | None
) -> None:
    folder = save()
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | changes if changes else []))
    with pytest.raises(
        UserError, match=r"^the check of .* broke \(\w+\.py, line \d+: \w+Error: .*not pushed; the run stays"
    ):
        check(folder)


def test_the_fresh_process_sees_nothing_of_this_project() -> None:
    tree = ast.parse(contract._PLAIN_PROCESS.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in names if name.startswith(("finetune", "data_prep"))]


@pytest.mark.parametrize("video_frames", [2, 12, 13])
@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling("segments"), Sampling("dense", 2), Sampling("uniform", 1, 4.0), Sampling("dense", 2, 30.0)],
    ids=lambda sampling: f"{sampling.strategy}-{sampling.target_fps}",
)
def test_the_cards_code_reads_the_frames_that_we_do(
    tmp_path: Path, write_video: Callable[..., Path], sampling: Sampling, video_frames: int
) -> None:
    frames = np.broadcast_to(
        np.arange(video_frames, dtype=np.uint8)[:, None, None, None] * 18, (video_frames, 32, 32, 3)
    )
    assert_read_alike(write_video(tmp_path / "v.mp4", frames.copy()), sampling)


@pytest.mark.parametrize("linear", ORIENTATIONS)
def test_the_cards_code_sets_frames_upright_as_we_do(tmp_path: Path, linear: tuple[int, int, int, int]) -> None:
    assert_read_alike(turned(encode(tmp_path / "v.mp4", blobs("card", size=64)[:, :48]), linear), Sampling())


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_the_cards_code_takes_the_stream_that_we_take(tmp_path: Path, suffix: str) -> None:
    """Neither the cover picture nor the smaller stream before it; and no letter of a title stops it."""
    video = tmp_path / f"v{suffix}"
    with av.open(str(video), "w") as container:
        container.metadata["title"] = "Ecole"
        streams = [container.add_stream(codec, rate=10) for codec in ("mjpeg", "mpeg4", "libx264")]
        for stream, disposition, side in zip(streams, (Disposition.attached_pic, Disposition(0), Disposition.default), (32, 32, 64)):  # fmt: skip
            stream.width = stream.height = side
            stream.pix_fmt, stream.disposition = "yuvj420p" if side == 32 and disposition else "yuv420p", disposition
        for stream, name, count in zip(streams, ("cover", "small", "large"), (1, 12, 12)):
            for picture in blobs(name, size=stream.width)[:count]:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture).reformat(format=stream.pix_fmt)))
            container.mux(stream.encode())
    video.write_bytes(video.read_bytes().replace(b"Ecole", b"\xc9cole"))  # Latin-1, as old recorders write
    assert_read_alike(video, Sampling())
    assert read_frames(video, [0]).shape == (1, 64, 64, 3)


def assert_read_alike(video: Path, sampling: Sampling) -> None:
    scope: dict[str, Any] = {}
    exec(read_clip_code(sampling, 4), scope)
    info, times = probe_times(video)
    indices = sampling.evaluation(sampling.frames(info.num_frames, info.fps, times), 4)[0]
    theirs, ours = scope["read_clip"](str(video)), read_frames(video, indices)
    assert theirs.shape == ours.shape and theirs.dtype == ours.dtype and (theirs == ours).all()
