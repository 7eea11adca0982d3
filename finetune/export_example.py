"""What stands beside an exported program: its preprocessing as numbers, and a script that uses both without this project."""

from __future__ import annotations

from typing import Any

from finetune.classifier import Classifier
from finetune.sampling import Sampling

_UNIFORM = "wanted = [min(i, count - 1) if count < {n} else i * count // {n} for i in range({n})]"
_SEGMENTS = "wanted = [min(i, count - 1) if count < {n} else (i * count // {n} + (i + 1) * count // {n} - 1) // 2 for i in range({n})]"
_DENSE = "wanted = [min(max(0, count - {span}) // 2 + {stride} * i, count - 1) for i in range({n})]"
_AT_RATE = """times, hair = np.array([frame.time for frame in decode()]), {hair}
shown = np.searchsorted(times - times[0], np.arange(int((times[-1] - times[0] + hair) * {rate}) + 1) / {rate} + hair, "right") - 1
count = len(shown)
"""
_COUNT = "count = sum(1 for _ in decode())\n"

_SCRIPT = '''"""python example.py VIDEO: its likeliest labels. Needs {needs}."""
import json, sys
from pathlib import Path
import av
import numpy as np
from PIL import Image
{imports}
here = Path(__file__).parent
p = json.loads((here / "preprocessing.json").read_text(encoding="utf-8"))

def decode():
    with av.open(sys.argv[1], metadata_errors="ignore") as video:
        yield from video.decode(video=0)

def picture(frame):  # upright, resized, its centre: uint8 (height, width, 3)
    image = frame.to_image().rotate(frame.rotation, expand=True)
    (w, h), size, crop = image.size, p["resize"], p["crop"]
    if "shortest_edge" in size:
        s = size["shortest_edge"]
        h, w = (s, s * w // h) if h <= w else (s * h // w, s)
    else:
        h, w = size["height"], size["width"]
    top, left = round((h - crop["height"]) / 2), round((w - crop["width"]) / 2)
    image = image.resize((w, h), p["resample"])
    return np.asarray(image.crop((left, top, left + crop["width"], top + crop["height"])))

{count}{wanted}
frames = {{i: picture(frame) for i, frame in enumerate(decode()) if i in set(wanted)}}
clip = (np.stack([frames[i] for i in wanted]) * p["rescale"] - p["mean"]) / p["std"]
pixel_values = clip.transpose(0, 3, 1, 2)[None].astype(np.float32)  # (1, num_frames, 3, height, width)
{run}
scores = {scores}
for i in scores.argsort()[::-1][:5]:
    print(f"{{scores[i]:7.2%}}  {{p['labels'][i]}}")
'''

_ONNX = "logits = onnxruntime.InferenceSession(here / {file!r}).run(None, {{'pixel_values': pixel_values}})[0][0]"
_TORCH = """with torch.no_grad():
    logits = torch.export.load(here / {file!r}).module()(torch.from_numpy(pixel_values))[0].numpy()"""
_SOFTMAX = "np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()"
_SIGMOID = "1 / (1 + np.exp(-logits))"


def preprocessing(classifier: Classifier) -> dict[str, Any]:
    """Everything between a decoded video and `pixel_values`, in the order it is done, and the names of the logits."""
    own, sampling = classifier.processor, classifier.sampling
    return {
        "num_frames": classifier.num_frames,
        "sampling": {"strategy": sampling.strategy, "frame_stride": sampling.frame_stride, "target_fps": sampling.target_fps},
        "resize": {key: value for key, value in dict(own.size).items() if value is not None},
        "resample": int(own.resample),  # as Pillow numbers them: 2 bilinear, 3 bicubic, both with antialiasing
        "crop": {"height": own.crop_size["height"], "width": own.crop_size["width"]},
        "rescale": own.rescale_factor,
        "mean": list(own.image_mean),
        "std": list(own.image_std),
        "channels": "RGB",
        "layout": "batch, num_frames, channels, height, width; float32",
        "scores": "sigmoid" if classifier.is_multi_label else "softmax",
        "labels": classifier.labels,
    }  # fmt: skip


def example_script(classifier: Classifier, file: str) -> str:
    """The script, with the sampling of this model and no other."""
    is_onnx = file.endswith(".onnx")
    return _SCRIPT.format(
        needs=f"{'onnxruntime' if is_onnx else 'torch'}, av, numpy and pillow",
        imports="import onnxruntime" if is_onnx else "import torch",
        count=_AT_RATE.format(rate=classifier.sampling.target_fps, hair=min(1e-3, 0.1 / classifier.sampling.target_fps))
        if classifier.sampling.target_fps
        else _COUNT,
        wanted=_wanted(classifier.sampling, classifier.num_frames),
        run=(_ONNX if is_onnx else _TORCH).format(file=file),
        scores=_SIGMOID if classifier.is_multi_label else _SOFTMAX,
    )


def _wanted(sampling: Sampling, num_frames: int) -> str:
    if sampling.strategy == "dense":
        span = (num_frames - 1) * sampling.frame_stride + 1
        line = _DENSE.format(n=num_frames, span=span, stride=sampling.frame_stride)
    else:
        line = (_SEGMENTS if sampling.strategy == "segments" else _UNIFORM).format(n=num_frames)
    return line + ("\nwanted = [int(shown[i]) for i in wanted]" if sampling.target_fps else "")
