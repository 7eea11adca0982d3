"""What stands beside an exported program: its preprocessing as numbers, and a script that uses both without this project."""

from __future__ import annotations

from typing import Any

from data_prep.errors import UserError
from finetune.results.templates import environment
from finetune.use.classifier import Classifier

_UNIFORM = "min(i * max(count, n) // n, count - 1)"
_SEGMENTS = "min((i * max(count, n) // n + (i + 1) * max(count, n) // n - 1) // 2, count - 1)"
_DENSE = "min(max(0, count - (n - 1) * {stride} - 1) // 2 + {stride} * i, count - 1)"
_AT_RATE = """times, rate = np.array([frame.time for frame in decode()]), p["sampling"]["target_fps"]
assert (np.diff(times) > 0).all(), "its frames carry no rising times"
times, hair = times - times[0], min(1e-3, 0.1 / rate)  # containers round times
shown = np.searchsorted(times, np.arange(int((times[-1] + hair) * rate) + 1) / rate + hair, "right") - 1
count, n = len(shown), p["num_frames"]
"""
_COUNT = 'count, n = sum(1 for _ in decode()), p["num_frames"]\n'
_SHORT_SIDE = '(p["resize"]["shortest_edge"] * side // min(rgb.shape[:2]) for side in rgb.shape[:2])'
_INTERPOLATIONS = {0: "POINT", 1: "LANCZOS", 2: "BILINEAR", 3: "BICUBIC"}  # Pillow's number, swscale's name
_FIXED = 'p["resize"]["height"], p["resize"]["width"]'

_SCRIPT = '''"""python example.py VIDEO: its likeliest labels. Needs {needs}. Stops at the first frame that does not decode."""
import json, sys
from pathlib import Path
import av, numpy as np, {runtime}

p = json.loads(Path(__file__).with_name("preprocessing.json").read_text(encoding="utf-8"))

def decode():
    with av.open(sys.argv[1], metadata_errors="ignore") as video:
        yield from video.decode(video.streams.best("video"))

def picture(frame):  # upright by its display matrix, resized, the crop in its middle: uint8 (height, width, 3)
{upright}    (h, w), crop = {size}, p["crop"]
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb)).reformat(w, h, interpolation="{interpolation}").to_ndarray()
    return rgb[(h - crop["height"]) // 2 :, (w - crop["width"]) // 2 :][: crop["height"], : crop["width"]]

{count}wanted = [{wanted} for i in range(n)]
frames = {{i: picture(frame) for i, frame in enumerate(decode()) if i in wanted}}
clip = ((np.stack([frames[i] for i in wanted]) * p["rescale"] - p["mean"]) / p["std"]).transpose(0, 3, 1, 2)
{run}
{scores}
'''

_ONNX = """session = onnxruntime.InferenceSession(Path(__file__).with_name("{file}"))
logits = session.run(None, {{"pixel_values": clip[None].astype(np.float32)}})[0][0]"""
_TORCH = """program = torch.export.load(Path(__file__).with_name("{file}")).module()
logits = program(torch.from_numpy(clip[None].astype(np.float32)))[0].detach().numpy()"""
_SOFTMAX = """scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
for i in scores.argsort()[::-1][:5]:
    print(f"{scores[i]:7.2%}  {p['labels'][i]}")"""
_SIGMOID = """scores = 1 / (1 + np.exp(-logits))
for rank, i in enumerate(scores.argsort()[::-1]):
    if rank < 5 or scores[i] >= p["thresholds"][i]:
        print(f"{scores[i]:7.2%}  {p['labels'][i]}{' (given)' if scores[i] >= p['thresholds'][i] else ''}")"""


def preprocessing(classifier: Classifier) -> dict[str, Any]:
    """Everything between a decoded video and `pixel_values`, in the order it is done, and the names of the logits."""
    own, sampling = classifier.processor, classifier.sampling
    return {
        "num_frames": classifier.num_frames,
        "sampling": {"strategy": sampling.strategy, "frame_stride": sampling.frame_stride, "target_fps": sampling.target_fps},
        "resize": {key: value for key, value in dict(own.size).items() if value is not None},
        "resample": int(own.resample),  # as Pillow numbers them: 2 bilinear, 3 bicubic, with antialiasing
        "crop": {"height": own.crop_size["height"], "width": own.crop_size["width"]},
        "rescale": own.rescale_factor if own.do_rescale else 1.0,
        "mean": list(own.image_mean) if own.do_normalize else [0.0] * 3,
        "std": list(own.image_std) if own.do_normalize else [1.0] * 3,
        "channels": "RGB",
        "layout": "batch, num_frames, channels, height, width; float32",
        "scores": "sigmoid" if classifier.is_multi_label else "softmax",
        "labels": classifier.labels,
        "thresholds": None if classifier.thresholds is None else classifier.thresholds.tolist(),  # of scores that are given
    }  # fmt: skip


def example_script(classifier: Classifier, file: str) -> str:
    """The script, with the sampling of this model and no other."""
    is_onnx, sampling, resample = file.endswith(".onnx"), classifier.sampling, int(classifier.processor.resample)
    if resample not in _INTERPOLATIONS:
        raise UserError(f"the processor's resample is {resample}, for which PyAV has no name: expected one of {', '.join(map(str, _INTERPOLATIONS))}.")  # fmt: skip
    wanted = {"dense": _DENSE.format(stride=sampling.frame_stride), "segments": _SEGMENTS, "uniform": _UNIFORM}
    return _SCRIPT.format(
        needs=f"av, numpy and {'onnxruntime' if is_onnx else 'torch'}",
        runtime="onnxruntime" if is_onnx else "torch",
        upright=environment().get_template("upright.py.jinja").render(),
        size=_SHORT_SIDE if classifier.processor.size.shortest_edge else _FIXED,
        interpolation=_INTERPOLATIONS[resample],
        count=_AT_RATE if sampling.target_fps else _COUNT,
        wanted=f"shown[{wanted[sampling.strategy]}]" if sampling.target_fps else wanted[sampling.strategy],
        run=(_ONNX if is_onnx else _TORCH).format(file=file),
        scores=_SIGMOID if classifier.is_multi_label else _SOFTMAX,
    )
