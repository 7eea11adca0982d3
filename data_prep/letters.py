"""A name that somebody else chose, for matplotlib: it warns about letters its font lacks and draws an empty box for them."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from functools import lru_cache
from itertools import accumulate

from matplotlib import font_manager

from data_prep.report.facts import visible


def drawable(text: str, length: int = 28) -> str:
    """About `length` characters, none of which matplotlib reads as a formula, draws backwards, or has no letter for:

    drawable("滑板") == "\\u6ed1\\u677f"
    """
    letters = [
        char if ord(char) in font_letters() else char.encode("unicode_escape").decode() for char in visible(text)
    ]
    ends = list(accumulate(map(len, letters)))  # an escape is shown whole or not at all
    shown = "".join(letters)
    if ends[-1] > length:
        shown = "".join(letters[: bisect_left(ends, length)]) + "…"
    if any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in shown):
        shown = f"\u200e{shown}\u200e"  # or a number after it would move to its left
    # A name that begins with _ matplotlib leaves out of a legend.
    return (f" {shown}" if shown.startswith("_") else shown).replace("$", r"\$")


@lru_cache
def font_letters() -> frozenset[int]:
    """Code points of the letters of matplotlib's font."""
    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())
