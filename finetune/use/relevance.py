"""Where and when a model looked: what each patch of a clip had to do with the answer, from all its attention maps.

Both methods follow the class token back through the attention steps of all blocks, in space and in time, last one first.
They differ in what a step passes on, and what its residual connection does:

- `rollout`, attention as it is (Abnar and Zuidema, "Quantifying Attention Flow in Transformers", arXiv 2005.00928, section 3):
  half along the mean of the heads' maps, half through the residual. Says what was looked at, whatever the answer.
- `relevance`, attention weighted by its gradient (Chefer, Gur and Wolf, arXiv 2103.15679, equations 5 and 6): along the
  mean of the positive parts of map times gradient of the label's logit, added to what passes the residual. Says what spoke
  for that label.

Of copies of the class token (one for each frame, row or column), whose results the model averages, each has its share.
"""

from __future__ import annotations

import torch

from data_prep.errors import UserError
from finetune.model.attention import Window, from_windows, to_windows
from finetune.model.layer import FIRST_STEPS, LAST_WINDOW
from finetune.model.modeling import TimesformerForVideoClassification

METHODS = ("relevance", "rollout")


def explain_clip(
    model: TimesformerForVideoClassification, pixel_values: torch.Tensor, label: int, method: str = "relevance"
) -> torch.Tensor:
    """float32 `(num_frames, rows, columns)`, not negative, of normalised `pixel_values` `(1, num_frames, 3, height, width)`.

    Written-out attention is computed, and kept, for all blocks: `joint_space_time` and `sparse_local_global` need memory
    for a map of all patches by all patches in each. Raises `UserError` for a method there is not.
    """
    if method not in METHODS:
        raise UserError(f"method is {method!r}, expected one of {', '.join(METHODS)}.")
    with torch.set_grad_enabled(method == "relevance"):
        output = model(pixel_values=pixel_values, output_attentions=True)
    names = [(layer, name) for layer, maps in enumerate(output.step_attentions) for name in maps]
    maps = [output.step_attentions[layer][name] for layer, name in names]
    if method == "relevance":
        gradients = torch.autograd.grad(output.logits[0, label], maps)
        maps = [(a.detach() * gradient).clamp(min=0) for a, gradient in zip(maps, gradients)]
    weights = [one.mean(1) for one in maps]
    num_frames, config = pixel_values.shape[1], model.config
    grid = model.timesformer.embeddings.patch_embeddings.projection.kernel_size
    rows, columns = (side // patch for side, patch in zip(pixel_values.shape[3:], grid))
    steps = [(one, _window(config.attention_type, name)) for one, (_, name) in zip(weights, names)]
    if config.attention_type != "space_only":
        return _follow(steps, (rows, columns, num_frames), method).permute(2, 0, 1)
    # Each frame is a clip of its own there, and the results are averaged.
    frames = ([(one[i : i + 1], window) for one, window in steps] for i in range(num_frames))
    return (
        torch.cat([_follow(of_frame, (rows, columns, 1), method).permute(2, 0, 1) for of_frame in frames]) / num_frames
    )


def _window(attention_type: str, name: str) -> Window:
    if name == "attention":
        return LAST_WINDOW[attention_type]
    return FIRST_STEPS[attention_type][name.removesuffix("_attention")]


def _follow(steps: list[tuple[torch.Tensor, Window]], shape: tuple[int, int, int], method: str) -> torch.Tensor:
    """`shape`, (rows, columns, num_frames): how much of the class token's answer comes from each patch."""
    weights = steps[0][0]
    class_token, patches = weights.new_ones(()), weights.new_zeros(shape)
    for attention, window in reversed(steps):
        class_added, added = step_back(class_token, patches, attention, window)
        if method == "rollout":
            class_token, patches = (class_token + class_added) / 2, (patches + added) / 2
        else:
            # What a step without the class token passes on of it is nothing: the residual has it all.
            class_token = class_token if window == "time" else class_token + class_added
            patches = patches + added
    return patches


def step_back(
    class_token: torch.Tensor, patches: torch.Tensor, attention: torch.Tensor, window: Window
) -> tuple[torch.Tensor, torch.Tensor]:
    """From what a step gave, () and (rows, columns, num_frames), to what it took: times its map (windows, tokens, tokens).

    In a window of time, where the class token takes no part, it stays what it is.
    """
    shape = torch.Size((1, *patches.shape, 1))
    tokens = to_windows(patches[None, ..., None], window)[0, :, :, 0]
    if window == "time":
        return class_token, from_windows(torch.einsum("wq,wqk->wk", tokens, attention), window, shape)[0, ..., 0]
    copies = (class_token / len(tokens)).expand(len(tokens), 1)
    taken = torch.einsum("wq,wqk->wk", torch.cat((copies, tokens), dim=1), attention)
    return taken[:, 0].sum(), from_windows(taken[:, 1:], window, shape)[0, ..., 0]
