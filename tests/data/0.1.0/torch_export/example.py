"""python example.py VIDEO: its likeliest labels. Needs av, numpy and torch. Stops at the first frame that does not decode."""

import json, sys
from pathlib import Path
import av, numpy as np, torch

p = json.loads(Path(__file__).with_name("preprocessing.json").read_text(encoding="utf-8"))


def decode():
    with av.open(sys.argv[1], metadata_errors="ignore") as video:
        yield from video.decode(video.streams.best("video"))


def picture(frame):  # upright by its display matrix, resized, the crop in its middle: uint8 (height, width, 3)
    a, b, _, c, d = np.frombuffer(frame.side_data.get("DISPLAYMATRIX", np.eye(3, dtype="i4")), "i4")[:5].astype(float)
    flip = -1 if a * d < b * c else 1
    turns = round(np.degrees(np.arctan2(-b * flip, a * flip)) / 90)
    rgb = np.rot90(frame.to_ndarray(format="rgb24")[:, ::flip], turns)
    (h, w), crop = (p["resize"]["shortest_edge"] * side // min(rgb.shape[:2]) for side in rgb.shape[:2]), p["crop"]
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb)).reformat(w, h, interpolation="BILINEAR").to_ndarray()
    return rgb[(h - crop["height"]) // 2 :, (w - crop["width"]) // 2 :][: crop["height"], : crop["width"]]


count, n = sum(1 for _ in decode()), p["num_frames"]
wanted = [min(i * max(count, n) // n, count - 1) for i in range(n)]
frames = {i: picture(frame) for i, frame in enumerate(decode()) if i in wanted}
clip = ((np.stack([frames[i] for i in wanted]) * p["rescale"] - p["mean"]) / p["std"]).transpose(0, 3, 1, 2)
program = torch.export.load(Path(__file__).with_name("model.pt2")).module()
logits = program(torch.from_numpy(clip[None].astype(np.float32)))[0].detach().numpy()
scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
for i in scores.argsort()[::-1][:5]:
    print(f"{scores[i]:7.2%}  {p['labels'][i]}")
