"""What a saved checkpoint promises: whoever loads it with transformers alone gets our predictions. Checked before a push."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import TimesformerVideoProcessor, pipeline

from data_prep.child import ending_with_us
from data_prep.errors import UserError
from data_prep.patience import reason
from data_prep.workers import available_cores
from finetune.clips.batch import ClipTransform, normalise
from finetune.clips.clip import ClipMaker, Rows, read_clip
from finetune.clips.sampling import Sampling
from finetune.model.modeling import MULTI_LABEL, TimesformerForVideoClassification, is_plain, probabilities
from finetune.model.weights import load_checkpoint
from finetune.results.evaluation import Evaluation
from finetune.use.inputs import Input
from finetune.use.reading import ClipReader

LOGITS_WITHIN = 1e-4  # of 1, or of the largest logit where that is more
SCORES_WITHIN = 1e-3
# bfloat16 has 8 bits: what training measured in it lies this near to the saved float32 weights.
MIXED_SCORES_WITHIN = 5e-2
_FRESH_SECONDS = 900
_PLAIN_PROCESS = Path(__file__).with_name("plain_process.py")


@dataclass(frozen=True)
class Clips:
    """What a checkpoint is tried on: uint8 clips `(num_frames, height, width, 3)`, RGB, and what training measured on
    them: scores `(clips, classes)`, and how far they may be off.
    """

    clips: list[np.ndarray]
    measured: np.ndarray | None = None
    measured_within: float = SCORES_WITHIN


def check(folder: Path, given: Clips | None = None) -> str:
    """One line that says what was compared. Raises `UserError` where anybody would get other predictions than ours, and
    where the check itself breaks: what was trained is on disk, and a bug in here takes nothing of it.

    Without clips, drawn ones are compared.
    """
    try:
        return _compare(folder, given)
    except UserError:
        raise
    except Exception as error:
        broken = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(broken.filename).name}, line {broken.lineno}"
        raise UserError(
            f"the check of {folder} broke ({where}: {reason(error)}). It is not pushed; the run stays as it is."
        ) from error


def _compare(folder: Path, given: Clips | None) -> str:
    model, processor = load_checkpoint(str(folder))
    given = given or Clips(drawn_clips(model.config.num_frames, processor))
    logits = _our_logits(model, processor, given.clips)
    problem = _unlike_training(probabilities(logits, model.config), given)
    if is_plain(model.config):
        answers = _ask_plain_transformers(folder, given.clips)
        problem = problem or _unlike_ours(answers, logits, model.config)
        said = f"transformers {transformers.__version__} alone gives the same predictions"
    else:
        classify = pipeline("video-classification", model=model, video_processor=processor, trust_remote_code=False)
        answers = [_pipeline_scores(classify, clip, model.config) for clip in given.clips]
        problem = problem or _unlike_ours(answers, logits, model.config)
        said = f"transformers has no right {model.config.attention_type} of this shape; our class, loaded anew, gives the same predictions"  # fmt: skip
    if problem:
        raise UserError(f"{folder} is not what it should be: {problem}. It is not pushed; the run stays as it is.")
    return f"checked {folder} on {len(given.clips)} clips: {said}"


def drawn_clips(num_frames: int, processor: TimesformerVideoProcessor, count: int = 2) -> list[np.ndarray]:
    """Large coloured patches that drift: what is compared needs no meaning, only values."""
    height, width = (round(1.3 * processor.crop_size[side]) for side in ("height", "width"))
    clips = []
    for seed in range(count):
        tiles = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        picture = tiles.repeat(height // 8 + 1, 0).repeat(width // 8 + 1, 1)
        steps = (
            np.linspace(0, height // 9, num_frames).astype(int),
            np.linspace(0, width // 9, num_frames).astype(int),
        )
        clips.append(np.stack([picture[y : y + height, x : x + width] for y, x in zip(*steps)]))
    return clips


def measured_clips(
    evaluation: Evaluation | None, maker: ClipMaker, mixed_precision: bool, at_most: int = 3
) -> Clips | None:
    """The clips of the first videos that an evaluation could read, and what it measured where that was one view of each;
    None without an evaluation.
    """
    if evaluation is None:
        return None
    chosen = np.flatnonzero(evaluation.readable)[:at_most]
    rows = Rows(evaluation.rows)
    clips = [read_clip(rows[i], maker.evaluated(rows[i])).permute(0, 2, 3, 1).numpy() for i in chosen]
    measured = evaluation.scores[chosen] if evaluation.view_scores.shape[1] == 1 else None
    return Clips(clips, measured, MIXED_SCORES_WITHIN if mixed_precision else SCORES_WITHIN)


def clip_of(video: str, folder: Path) -> np.ndarray:
    """The clip that the checkpoint in `folder` is shown of a video file. Raises `UserError`."""
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    read = ClipReader(Sampling.read_from(config), config.num_frames).read(Input(video))
    if read.frames is None:
        raise UserError(f"{video}: {read.error}")
    return read.frames[0]


def _our_logits(
    model: TimesformerForVideoClassification, processor: TimesformerVideoProcessor, clips: list[np.ndarray]
) -> torch.Tensor:
    """float32 `(clips, classes)`, on the CPU."""
    transform = ClipTransform(processor)
    with torch.inference_mode():
        rows = [
            model(normalise(transform.evaluate(torch.from_numpy(clip).permute(0, 3, 1, 2)), processor)[None]).logits
            for clip in clips
        ]
    return torch.cat(rows)


def _pipeline_scores(classify: Any, clip: np.ndarray, config: Any) -> dict[str, Any]:
    function = "sigmoid" if config.problem_type == MULTI_LABEL else "softmax"
    scores = classify(clip, top_k=config.num_labels, function_to_apply=function)
    return {"scores": {score["label"]: score["score"] for score in scores}}


def _ask_plain_transformers(folder: Path, clips: list[np.ndarray]) -> list[dict[str, Any]]:
    """Answers of a fresh process, which sees neither this project nor the network. Raises `UserError`."""
    kept_out = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    environment = {key: value for key, value in os.environ.items() if key not in kept_out}
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(available_cores()),
        "TRANSFORMERS_VERBOSITY": "error",
    }
    with tempfile.TemporaryDirectory(prefix="contract-") as name:
        place = Path(name)
        script = shutil.copy(_PLAIN_PROCESS, place)  # a script's own folder is where Python looks first
        np.savez(place / "clips.npz", *clips)
        command = [sys.executable, script, folder.resolve(), place / "clips.npz", place / "answers.json"]
        try:
            done = subprocess.run(
                ending_with_us(command), cwd=place, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                text=True, timeout=_FRESH_SECONDS, start_new_session=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise UserError(f"plain transformers did not answer within {_FRESH_SECONDS} s on {folder}.") from error
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise UserError(
                f"plain transformers cannot use {folder}: {last}. It is not pushed; the run stays as it is."
            )
        answers: list[dict[str, Any]] = json.loads((place / "answers.json").read_text(encoding="utf-8"))
    return answers


def _unlike_ours(answers: list[dict[str, Any]], logits: torch.Tensor, config: Any) -> str | None:
    """What of `answers` is not as our `logits` say."""
    allowed = LOGITS_WITHIN * max(1.0, float(logits.abs().max()))
    scores = probabilities(logits, config)
    for answer, our_logits, our_scores in zip(answers, logits, scores, strict=True):
        if "logits" in answer and (off := _distance(torch.tensor(answer["logits"]), our_logits)) > allowed:
            return f"plain transformers' logits are {off:.2g} from ours, expected at most {allowed:.2g}"
        if "refusal" in answer:
            if _pipeline_may_refuse(config):
                continue
            return f"transformers' pipeline refuses a clip: {answer['refusal']}"
        if set(answer["scores"]) != set(config.id2label.values()):
            return "transformers' pipeline has other labels"
        theirs = torch.tensor([answer["scores"][config.id2label[i]] for i in range(config.num_labels)])
        if (off := _distance(theirs, our_scores)) > SCORES_WITHIN:
            return f"transformers' pipeline's scores are {off:.2g} from ours, expected at most {SCORES_WITHIN}"
    return None


def _pipeline_may_refuse(config: Any) -> bool:
    """The pipeline samples in one way only: a processor for another way makes it refuse (finetune/model/processor.py)."""
    return not Sampling.read_from(config).is_the_pipelines


def _unlike_training(scores: torch.Tensor, given: Clips) -> str | None:
    """What training measured with the model in memory, against what came back from disk."""
    if not torch.isfinite(scores).all():
        return "its scores are not finite"
    if given.measured is None:
        return None
    off = _distance(scores, torch.from_numpy(given.measured).to(scores.dtype))
    if off > given.measured_within:
        return f"its scores are {off:.2g} from those that were measured after training, expected at most {given.measured_within}"
    return None


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference; infinite where the shapes differ or a number is missing."""
    if one.shape != other.shape:
        return float("inf")
    return float(torch.nan_to_num((one - other).abs(), nan=float("inf")).max())
