"""Which model a run asks for: the words of its command line that `weights.py` makes one of."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.errors import UserError
from finetune.model.layer import ATTENTION_TYPES


@dataclass
class ModelArguments:
    """What training starts from, and what its card says."""

    model_name_or_path: str = field(default="", metadata={"help": "TimeSformer checkpoint, or an image transformer to start from (ViT, DeiT, DINOv2), local or on the Hub; or random weights: timesformer-tiny, -small, -base, -hr, -large."})  # fmt: skip
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a Hub checkpoint."})
    new_head: bool = field(default=False, metadata={"help": "Train a new head even where the checkpoint's labels are the dataset's."})  # fmt: skip
    num_frames: int | None = field(default=None, metadata={"help": "Frames of a clip. Default: the checkpoint's; 8 from an image model. The time embeddings are resized (linear)."})  # fmt: skip
    image_size: list[int] | None = field(default=None, metadata={"help": "Side of the square crop, or its height and width (px). Default: the checkpoint's. The position embeddings are resized (bicubic)."})  # fmt: skip
    attention_type: str | None = field(default=None, metadata={"choices": list(ATTENTION_TYPES), "help": "Attention scheme. Default: the checkpoint's; divided_space_time from an image model."})  # fmt: skip
    attn_implementation: str | None = field(default=None, metadata={"help": "How attention is computed: eager, sdpa (default), flash_attention_2, flex_attention."})  # fmt: skip
    image_mean: list[float] | None = field(default=None, metadata={"help": "Mean of red, green and blue, 0 to 1, that clips are normalised by. Default: the checkpoint's."})  # fmt: skip
    image_std: list[float] | None = field(default=None, metadata={"help": "Likewise the standard deviation."})
    input_channel_order: str = field(default="rgb", metadata={"choices": ["rgb", "bgr"], "help": "Of the frames the checkpoint was trained on; the authors' Something-Something v2 ones saw bgr. Frames here are RGB either way."})  # fmt: skip
    drop_path_rate: float = field(default=0.0, metadata={"help": "Stochastic depth of the last block, less in earlier ones; 0.1 in the authors' recipes."})  # fmt: skip
    head_dropout: float = field(default=0.0, metadata={"help": "Dropout before the head."})
    license: str | None = field(default=None, metadata={"help": "License named in the model card, as apache-2.0."})
    push_examples: bool = field(
        default=False,
        metadata={"help": "Show predictions.png, frames of the test videos, on the card, and upload it with the card."},
    )


def check_model(model: ModelArguments) -> None:
    """Raises `UserError` for a value that cannot be meant."""
    if not model.model_name_or_path:
        raise UserError("--model_name_or_path is missing: give a TimeSformer checkpoint, as facebook/timesformer-base-finetuned-k400, an image transformer, or timesformer-tiny.")  # fmt: skip
    for name in ("drop_path_rate", "head_dropout"):
        if not 0 <= getattr(model, name) < 1:
            raise UserError(f"--{name} is {getattr(model, name)}, expected at least 0 and less than 1.")
    if model.num_frames is not None and model.num_frames < 1:
        raise UserError(f"--num_frames is {model.num_frames}, expected at least 1.")
    for name in ("image_mean", "image_std"):
        values = getattr(model, name)
        if values is not None and (len(values) != 3 or not all(0 <= value <= 1 for value in values)):
            raise UserError(f"--{name} is {values}: expected three numbers from 0 to 1, as 0.45 0.45 0.45.")
    if model.image_std is not None and 0 in model.image_std:
        raise UserError("--image_std holds a 0, by which nothing can be divided.")
