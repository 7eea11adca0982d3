"""Which letters matplotlib draws: those of its own font and of the fonts that are installed.

For any other it warns, and draws an empty box.
"""

from __future__ import annotations

from functools import lru_cache

import matplotlib
from matplotlib import font_manager

_NORMAL = 400  # weight of a font's face


def has_letter(char: str) -> bool:
    """Whether a font has it. One that matplotlib would not look into by itself is added to its `font.family`."""
    if ord(char) in _letters(font_manager.findfont("DejaVu Sans")):
        return True
    family = _installed(char)
    if family is None:
        return False
    families = matplotlib.rcParams["font.family"]
    if family not in families:
        matplotlib.rcParams["font.family"] = [*families, family]
    return True


@lru_cache
def _installed(char: str) -> str | None:
    """The first family, by name, whose upright face of the most usual weight has the letter.

    Those that come with matplotlib are for formulas, and one of them has an empty box for every letter.
    """
    own = matplotlib.get_data_path()
    fonts = [font for font in font_manager.fontManager.ttflist if not font.fname.startswith(own)]
    upright = [font for font in fonts if font.style == "normal"]
    faces = {font.name: font.fname for font in sorted(upright, key=lambda font: -abs(int(font.weight) - _NORMAL))}
    return next((family for family in sorted(faces) if ord(char) in _letters(faces[family])), None)


@lru_cache
def _letters(font: str) -> frozenset[int]:
    """Code points of a font's file; none of one that matplotlib cannot read, as of emoji in colour."""
    try:
        return frozenset(font_manager.get_font(font).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
