"""From which score on each of several labels is given. Chosen on validation and saved in a checkpoint's config.json."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_prep.errors import UserError
from finetune.model.modeling import MULTI_LABEL

_UNCHOSEN = 0.5


def label_thresholds(config: Any) -> np.ndarray | None:
    """float64 `(num_labels,)`, 0.5 each where none were chosen; None for a model that gives one label per video.

    Raises `UserError` where the config, which may be anybody's, holds something else.
    """
    if config.problem_type != MULTI_LABEL:
        return None
    saved = getattr(config, "label_thresholds", None)
    if saved is None:
        return np.full(config.num_labels, _UNCHOSEN)
    try:
        thresholds = np.array(saved, dtype=np.float64)
    except (TypeError, ValueError):
        thresholds = np.empty(0)
    if thresholds.shape != (config.num_labels,) or not np.isfinite(thresholds).all():
        raise UserError(f"the label_thresholds of the model's config.json are not {config.num_labels} numbers, one for each label: take them out of it.")  # fmt: skip
    return thresholds
