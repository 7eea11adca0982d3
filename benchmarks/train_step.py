"""Forward pass and training step: this project's TimeSformer against transformers', same weights, same batch, turn by turn.

python benchmarks/train_step.py                        # on a CUDA device: every case, in less than 8 minutes
python benchmarks/train_step.py --cases base --layers 4 --batch 2     # what two CPU cores do in two minutes
python benchmarks/train_step.py --attention            # attention alone: fused or written out, by sequence length

Needs torch, transformers and this package. On CUDA times are of events, and memory is the peak that the allocator saw.
On a CPU times with one thread are CPU seconds of the process (others may be busy on the same cores), with several they are
of the clock on the wall, and memory is what the forward pass keeps for the backward pass. A row's ratio is the median over the rounds of the first row's time by its own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch.nn import functional as F
from transformers import TimesformerConfig
from transformers import TimesformerForVideoClassification as Plain

from finetune.model.attention import eager_attention
from finetune.model.modeling import TimesformerForVideoClassification as Ours

CASES: dict[str, dict[str, Any]] = {
    "base": {},
    "joint": {"attention_type": "joint_space_time"},
    "hr": {"image_size": 448, "num_frames": 16},
    "large": {"num_frames": 96},
}
CUDA_BATCH = {"base": 16, "joint": 8, "hr": 2, "large": 2}
NUM_LABELS = 400


@dataclass(frozen=True)
class Way:
    """One way to compute: a class, its attention, autocast, and whether it is compiled."""

    name: str
    cls: type
    attention: str
    bf16: bool = False
    compiled: bool = False


CPU_WAYS = [Way("transformers, eager, fp32", Plain, "eager"), Way("ours, fp32", Ours, "sdpa")]
CUDA_WAYS = [
    *CPU_WAYS,
    Way("transformers, eager, bf16", Plain, "eager", bf16=True),
    Way("ours, sdpa, bf16", Ours, "sdpa", bf16=True),
    Way("ours, eager, bf16", Ours, "eager", bf16=True),
    Way("ours, sdpa, bf16, compiled", Ours, "sdpa", bf16=True, compiled=True),
]


def main() -> None:
    options = parse_options()
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {options.threads} threads"
    print(f"{machine}; torch {torch.__version__}, transformers {transformers.__version__}")
    if options.attention:
        compare_attention(device)
        return
    for case in options.cases:
        run_case(case, options, device)


def parse_options() -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--batch", type=int, help="clips (default on CUDA: by case; on a CPU: 1)")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5 if cuda else 3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--attention", action="store_true", help="attention alone, fused and written out")
    return parser.parse_args()


def run_case(case: str, options: argparse.Namespace, device: torch.device) -> None:
    batch = options.batch or (CUDA_BATCH[case] if device.type == "cuda" else 1)
    settings = {**CASES[case], "num_hidden_layers": options.layers, "num_labels": NUM_LABELS}
    config = TimesformerConfig(**settings)
    state = random_state(config)
    pixels = torch.randn(batch, config.num_frames, 3, config.image_size, config.image_size, device=device)
    labels = torch.randint(NUM_LABELS, (batch,), device=device)
    work = 2 * batch * clip_macs(config)
    print(f"\n{case}: batch {batch}, {options.layers} layers, {work / batch / 2e9:.1f} GMAC a clip forward")
    ways = (
        CPU_WAYS if device.type == "cpu" else CUDA_WAYS if case == "base" else CUDA_WAYS[:-1]
    )  # compiling takes minutes
    models, calls = {}, {}
    for way in ways:
        models[way] = way.cls._from_config(TimesformerConfig(**settings), attn_implementation=way.attention)
        models[way].load_state_dict(state)
        calls[way] = torch.compile(models[way]) if way.compiled else models[way]
    for training in (False, True):
        times: dict[Way, list[float]] = {way: [] for way in ways}
        memory: dict[Way, float | None] = {}
        for turn in range(options.rounds + 1):  # the first warms up
            for way in ways:
                spent, memory[way] = measure(way, models[way], calls[way], pixels, labels, training)
                if turn and spent is not None:
                    times[way].append(spent)
        report("training step" if training else "forward", times, memory, work * (3 if training else 1), device)


def random_state(config: TimesformerConfig) -> dict[str, torch.Tensor]:
    """Weights without zeros, from a fixed seed, so that nothing is cheap by chance."""
    torch.manual_seed(0)
    state = Ours(config).state_dict()
    return {name: torch.randn_like(w) * 0.02 if not w.any() else w for name, w in state.items()}


def measure(
    way: Way, model: Any, call: Any, pixels: torch.Tensor, labels: torch.Tensor, training: bool
) -> tuple[float | None, float | None]:
    """(seconds, bytes) of one pass; None where the memory does not suffice. Only the model measured is on the device."""
    device = pixels.device
    model.to(device).train(training)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, foreach=True) if training else None
    autocast = torch.autocast(device.type, torch.bfloat16) if way.bf16 else nullcontext()

    def once() -> None:
        with autocast, torch.set_grad_enabled(training):
            output = call(pixel_values=pixels, labels=labels if training else None)
        if optimizer is not None:
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    try:
        if device.type == "cuda":
            return cuda_seconds(once)
        kept = bytes_kept(model, pixels, labels) if training else None
        return seconds(once, device), kept
    except torch.OutOfMemoryError:
        return None, None
    finally:
        model.zero_grad()
        if device.type == "cuda":
            model.to("cpu")


def cuda_seconds(once: Callable[[], None], repeats: int = 5) -> tuple[float, float]:
    for _ in range(2):
        once()
    torch.cuda.reset_peak_memory_stats()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        once()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000 / repeats, float(torch.cuda.max_memory_allocated())


def bytes_kept(model: Any, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    """Bytes of the tensors, weights apart, that a forward pass keeps for the backward pass."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor.detach()  # a node that saved its own result would never be freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(pixel_values=pixels, labels=labels)
    total = sum(storage.nbytes() for storage in kept.values())
    del output
    return float(total)


def report(
    what: str,
    times: dict[Way, list[float]],
    memory: dict[Way, float | None],
    operations: float,
    device: torch.device,
) -> None:
    first = next(iter(times))
    peak = matmul_rate(device) if device.type == "cuda" else None
    print(f"| {what} | s | times as fast | memory, MB |{' MFU |' if peak else ''}")
    print(f"|---|---|---|---|{'---|' if peak else ''}")
    for way, seconds in times.items():
        if not seconds:
            print(f"| {way.name} | out of memory | | |{' |' if peak else ''}")
            continue
        ratios = sorted(a / b for a, b in zip(times[first], seconds))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if ratios else ""
        kept = memory[way]
        row = f"| {way.name} | {statistics.median(seconds):.4g} | {spread} | {kept / 2**20 if kept else 0:.0f} |"
        if peak:
            row += f" {operations / statistics.median(seconds) / peak[way.bf16]:.1%} |"
        print(row, flush=True)


def clip_macs(config: TimesformerConfig) -> float:
    """Multiply-adds of one clip's forward pass as the model is defined: products of matrices, nothing else.

    Of base 8x224: 195.8e9. The 196.7e9 (GFLOPs) that toolboxes print also count norms and the like.
    """
    width, frames = config.hidden_size, config.num_frames
    patches = (config.image_size // config.patch_size) ** 2
    tokens = patches * frames
    if config.attention_type == "divided_space_time":
        time_step = tokens * 5 * width**2 + 2 * tokens * frames * width
        space_step = (tokens + frames) * 4 * width**2 + 2 * frames * (patches + 1) ** 2 * width
    else:
        time_step, space_step = 0, (tokens + 1) * 4 * width**2 + 2 * (tokens + 1) ** 2 * width
    mlp = 2 * (tokens + 1) * width * config.intermediate_size
    embedding = tokens * width * config.num_channels * config.patch_size**2
    return config.num_hidden_layers * (time_step + space_step + mlp) + embedding + width * config.num_labels


def matmul_rate(device: torch.device) -> dict[bool, float]:
    """Operations per second of a large product on this device: {is bf16: rate}. fp32 as torch computes it by default."""
    rates = {}
    for bf16 in (False, True):
        a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16 if bf16 else torch.float32) for _ in "ab")

        def product(a: torch.Tensor = a, b: torch.Tensor = b) -> None:
            a @ b

        rates[bf16] = 2 * 8192**3 / cuda_seconds(product, repeats=20)[0]
    return rates


PACKED = 8  # short sequences laid end to end, each attending to itself alone


def compare_attention(device: torch.device) -> None:
    """Forward and backward of ViT-B's attention over about 6,000 tokens cut into sequences of several lengths."""
    print(f"| tokens | type | fused, ms | written out, ms | {PACKED} packed into one, ms |\n|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        for length in (8, 16, 32, 64, 96, 128, 197, 256, 392, 785, 1569):
            ways = attention_ways(PACKED * max(1, 6272 // length // PACKED), length, dtype, device)
            rounds = [[seconds(way, device) for way in ways] for _ in range(4)][1:]
            medians = " | ".join(f"{1000 * statistics.median(times):.1f}" for times in zip(*rounds))
            print(f"| {length} | {str(dtype).removeprefix('torch.')} | {medians} |{' |' * (3 - len(ways))}", flush=True)


def seconds(once: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        return cuda_seconds(once)[0]
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    once()
    return clock() - started


def attention_ways(windows: int, length: int, dtype: torch.dtype, device: torch.device) -> list[Callable[[], None]]:
    qkv = torch.randn(windows, length, 3, 12, 64, dtype=dtype, device=device, requires_grad=True)
    gradient = torch.randn(windows, length, 12, 64, dtype=dtype, device=device)

    def fused() -> None:
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        torch.autograd.grad(F.scaled_dot_product_attention(query, key, value).transpose(1, 2), qkv, gradient)

    def written_out() -> None:
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        torch.autograd.grad(eager_attention(torch.nn.Identity(), query, key, value, None, 0.0, 0.125)[0], qkv, gradient)

    if length > 32:
        return [fused, written_out]
    own = torch.block_diag(*[torch.ones(length, length, device=device)] * PACKED).bool()

    def packed() -> None:
        query, key, value = qkv.view(-1, PACKED * length, 3, 12, 64).permute(2, 0, 3, 1, 4).unbind(0)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=own).transpose(1, 2)
        torch.autograd.grad(context.reshape(gradient.shape), qkv, gradient)

    return [fused, written_out, packed]


if __name__ == "__main__":
    main()
