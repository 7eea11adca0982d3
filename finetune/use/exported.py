"""A classifier as a program that runs without this project: written, and compared with what it was made of."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_prep.errors import UserError
from finetune.model.modeling import TimesformerForVideoClassification

FORMATS = {"onnx": "model.onnx", "torch_export": "model.pt2"}
TOLERANCE = 1e-4  # of logits, in the unit of the largest one where that is above 1
_ONE_FILE_BYTES = 1_800_000_000  # a protobuf message, which an ONNX file is, ends at 2 GiB
_TIMED_SECONDS = 3.0

Run = Callable[[torch.Tensor], torch.Tensor]  # float32 (batch, num_frames, 3, height, width) -> (batch, num_labels)


class Logits(nn.Module):
    """The model with one tensor in, one out."""

    def __init__(self, model: TimesformerForVideoClassification):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values=pixel_values).logits
        return logits


def write_program(model: TimesformerForVideoClassification, example: torch.Tensor, form: str, path: Path) -> None:
    """`pixel_values` float32 `(batch, ...)`, a batch of any size like `example`'s, which has 2 or more -> `logits`."""
    shapes = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=1024)}}
    with torch.no_grad():
        if form == "torch_export":
            program = io.BytesIO()  # torch's own writer ends the process where the disk is full
            torch.export.save(torch.export.export(Logits(model).eval(), (example,), dynamic_shapes=shapes), program)
            path.write_bytes(program.getbuffer())
            return
        needs("onnx", "onnxscript", "onnxruntime")
        num_bytes = sum(weight.nbytes for weight in model.parameters())
        torch.onnx.export(
            Logits(model).eval(), (example,), path, dynamo=True, dynamic_shapes=shapes, verbose=False,
            input_names=["pixel_values"], output_names=["logits"], external_data=num_bytes > _ONE_FILE_BYTES,
        )  # fmt: skip


def needs(*modules: str) -> None:
    """Raises `UserError` where the extra is not installed."""
    import importlib.util

    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx needs {', '.join(missing)}: pip install -e '.[export]'.")


def quantize(source: Path, path: Path) -> None:
    """Weights as int8, activations quantised as they come (onnxruntime's dynamic quantisation)."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # Weights that are used twice, for the patches and for the class token, stand before a transposition, where they
    # would not be found: this computes it once and for all.
    folded = path.with_suffix(".folded")
    quant_pre_process(source, folded, skip_symbolic_shape=True)
    whole = onnx.load(folded)
    del whole.graph.value_info[:]  # shapes of before, some of which onnxruntime 1.23 leaves to names that it uses anew
    quantize_dynamic(whole, path, weight_type=QuantType.QInt8, per_channel=True)
    folded.unlink()


def opened(path: Path) -> Run:
    """What a user of the file will run, on the CPU."""
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()

        def run(pixel_values: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                logits: torch.Tensor = module(pixel_values)
                return logits

        return run
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda pixel_values: torch.from_numpy(session.run(None, {"pixel_values": pixel_values.numpy()})[0])


@dataclass(frozen=True)
class Agreement:
    """Of a program with the model: the largest difference of a logit and of a score, and how often the first label is the same."""

    logits: float
    scores: float
    top1: float
    num_clips: int

    def check(self, largest_logit: float) -> None:
        """Raises `UserError` where logits differ by more than `TOLERANCE`."""
        if not self.logits <= TOLERANCE * max(1.0, largest_logit):
            raise UserError(f"the exported program's logits differ from the model's by {self.logits:.1e}, expected at most {TOLERANCE:g}: nothing was written. Please report this.")  # fmt: skip


def compare(expected: torch.Tensor, got: torch.Tensor) -> Agreement:
    """Of logits `(clips, num_labels)`."""
    scores = (expected.softmax(-1) - got.softmax(-1)).abs().max()
    same = (expected.argmax(-1) == got.argmax(-1)).float().mean()
    return Agreement(float((expected - got).abs().max()), float(scores), float(same), len(expected))


def in_batches(run: Run, clips: torch.Tensor) -> torch.Tensor:
    """One first and then two at a time, so that the size of the batch is tried too."""
    return torch.cat([run(part) for part in (clips[:1], *clips[1:].split(2)) if len(part)])


def latency_ms(run: Run, clip: torch.Tensor) -> float:
    """Median ms by the clock for one clip, after one that is not counted."""
    run(clip)
    took: list[float] = []
    begun = time.perf_counter()
    while len(took) < 3 or (len(took) < 100 and time.perf_counter() - begun < _TIMED_SECONDS):
        start = time.perf_counter()
        run(clip)
        took.append((time.perf_counter() - start) * 1e3)
    return statistics.median(took)


def versions(form: str) -> dict[str, Any]:
    """Of what wrote the file."""
    found: dict[str, Any] = {"torch": str(torch.__version__)}
    if form == "onnx":
        import onnx
        import onnxruntime

        found |= {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    return found
