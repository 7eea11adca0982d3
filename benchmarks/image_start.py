"""A TimeSformer that starts from an image model, against that image model, on real weights and real pictures.

python benchmarks/image_start.py MODEL VIDEO...      # MODEL: a ViT, DeiT or DINOv2 checkpoint, local or on the Hub

For each scheme, over one still clip of each video's first frame: the largest difference between the two models' class
tokens, beside the largest value in the image model's. Zero but for rounding is promised of divided_space_time and
space_only. Then, of clips of 8 frames at 112 px, how near the class token stays to that of the image start when time starts
by contrast, fitted to the moving ones.
"""

from __future__ import annotations

import sys

import torch
from transformers import AutoModel, TimesformerVideoProcessor

from data_prep.video import probe, read_frames
from finetune.clips.sampling import centre_indices
from finetune.model.layer import ATTENTION_TYPES
from finetune.model.wanted import ModelArguments
from finetune.model.weights import load_start
from finetune.training.time_start import start_contrast


def main(name: str, videos: list[str]) -> None:
    image_model = AutoModel.from_pretrained(name, dtype=torch.float32).eval()
    print("| scheme | largest difference | largest value |\n|---|---|---|")
    for attention_type in ATTENTION_TYPES:
        start = load_start(ModelArguments(model_name_or_path=name, attention_type=attention_type), ["a", "b"])
        differences, values = [], []
        for video in videos:
            frame = torch.from_numpy(read_frames(video, [0]).copy()).permute(0, 3, 1, 2)
            clip = start.processor(
                frame, do_sample_frames=False, input_data_format="channels_first", return_tensors="pt"
            )
            pixels = clip["pixel_values"]
            with torch.no_grad():
                expected = image_model(pixels[:, 0]).last_hidden_state[:, 0]
                still = pixels.expand(-1, start.model.config.num_frames, -1, -1, -1)
                got = start.model.eval().timesformer(still).last_hidden_state[:, 0]
            differences.append((got - expected).abs().max().item())
            values.append(expected.abs().max().item())
        print(f"| {attention_type} | {max(differences):.1e} | {max(values):.1f} |", flush=True)
    print(start.message)
    times(name, videos)


@torch.no_grad()
def times(name: str, videos: list[str]) -> None:
    start = load_start(ModelArguments(name, num_frames=8, image_size=[112]), ["a", "b"])
    model = start.model.eval()
    clips = torch.cat([moving(video, start.processor) for video in videos])
    kinds = {"moving": clips, "still": clips[:, :1].expand_as(clips)}
    before = {kind: model.timesformer(of, class_only=True).last_hidden_state[:, 0] for kind, of in kinds.items()}
    start_contrast(model, clips)
    print("| clips | cosine of the contrast start's class token to the image start's |\n|---|---|")
    for kind, of in kinds.items():
        after = model.timesformer(of, class_only=True).last_hidden_state[:, 0]
        print(f"| {kind} | {torch.cosine_similarity(before[kind], after).mean():.4f} |")
    others = torch.cosine_similarity(before["moving"], before["moving"].roll(1, 0)).mean()
    print(f"between one moving clip and the next, at the image start: {others:.4f}")


def moving(video: str, processor: TimesformerVideoProcessor) -> torch.Tensor:
    indices = centre_indices(probe(video).num_frames, 8)
    frames = torch.from_numpy(read_frames(video, indices).copy()).permute(0, 3, 1, 2)
    return processor(frames, do_sample_frames=False, input_data_format="channels_first", return_tensors="pt")[
        "pixel_values"
    ]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
