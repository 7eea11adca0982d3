"""Which letters matplotlib's font has: for any other it warns, and draws an empty box."""

from __future__ import annotations

from functools import lru_cache

from matplotlib import font_manager


@lru_cache
def font_letters() -> frozenset[int]:
    """Their code points."""
    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())
