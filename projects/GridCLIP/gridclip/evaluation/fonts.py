"""Fonts for names in any script: matplotlib's own lacks most letters that are not Latin."""

import warnings
from functools import cache

from matplotlib.font_manager import findSystemFonts, fontManager, get_font


def font_families(text: str) -> list[str]:
    """Families for matplotlib that have a text's letters between them: its own, and as many of
    the system as are needed. A warning says that no font has a letter."""
    own = get_font(fontManager.findfont("DejaVu Sans"))
    lacking = frozenset(x for x in text if x.isalpha() and not own.get_char_index(ord(x)))
    return ["DejaVu Sans", *_system_families(lacking)]


@cache  # it opens one font after another
def _system_families(letters: frozenset[str]) -> list[str]:
    families: list[str] = []
    # matplotlib's own list is cached on disk and lacks what was installed since.
    paths = sorted(findSystemFonts(), key=lambda path: ("Regular" not in path, path))
    while letters and paths:
        try:
            font = get_font(path := paths.pop(0))
        except RuntimeError:  # it cannot be drawn, such as one of coloured pictures
            continue
        if has := {x for x in letters if font.get_char_index(ord(x))}:
            fontManager.addfont(path)
            families.append(font.family_name)
            letters -= has
    if letters:
        warnings.warn(  # shown once, as its text never changes
            "No installed font has all letters of the names: empty boxes are drawn. Install one, "
            "such as the package fonts-noto-cjk (Chinese, Japanese, Korean) or fonts-noto-core.",
            stacklevel=1,
        )
    return families
