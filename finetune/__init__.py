"""Fine-tuning TimeSformer, and using what comes of it: `from finetune import load`.

classifier = load("runs/mine")        # a directory or a Hub id
classifier.predict("clip.mp4")        # [{"video": "clip.mp4", "predictions": [{"label": ..., "score": ...}, ...]}]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_prep.errors import UserError
    from finetune.use.classifier import Classifier, load

__all__ = ["Classifier", "UserError", "load"]


def __getattr__(name: str) -> Any:
    """Imported when asked for: torch and transformers take seconds, which `--help` and reading processes do without."""
    if name in ("Classifier", "load"):
        from finetune.use import classifier

        return getattr(classifier, name)
    if name == "UserError":
        from data_prep.errors import UserError

        return UserError
    raise AttributeError(f"module 'finetune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
