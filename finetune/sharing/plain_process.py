"""What plain transformers makes of a checkpoint; run by finetune/sharing/contract.py in a process of its own.

Nothing of this project is imported here, so that nothing of it can help: python plain_process.py FOLDER CLIPS ANSWERS
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
import transformers


def main(folder: str, clips_file: str, answers_file: str) -> None:
    """CLIPS is an npz of uint8 clips `(num_frames, height, width, 3)`; ANSWERS becomes JSON with, for each of them,
    `logits` and the pipeline's `scores` by label, or the `refusal` of a pipeline that does not take it.
    """
    loaded = transformers.AutoModelForVideoClassification.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False
    )
    model = loaded.eval()
    processor = transformers.AutoVideoProcessor.from_pretrained(folder, trust_remote_code=False)
    classify = transformers.pipeline("video-classification", model=folder, device="cpu", trust_remote_code=False)
    # Named, because the pipeline of transformers 5.17 gives softmax to several labels per video too.
    function = "sigmoid" if model.config.problem_type == "multi_label_classification" else "softmax"
    answers: list[dict[str, Any]] = []
    with np.load(clips_file) as clips, torch.inference_mode():
        for name in clips.files:
            pixels = processor(clips[name], do_sample_frames=False, return_tensors="pt")["pixel_values"]
            answer: dict[str, Any] = {"logits": model(pixel_values=pixels).logits[0].tolist()}
            try:
                scores = classify(clips[name], top_k=model.config.num_labels, function_to_apply=function)
                answer["scores"] = {score["label"]: score["score"] for score in scores}
            except ValueError as error:
                answer["refusal"] = str(error)
            answers.append(answer)
    with open(answers_file, "w", encoding="utf-8") as file:
        json.dump(answers, file, allow_nan=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
