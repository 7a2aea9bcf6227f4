"""Fonts for names in any script. matplotlib's own font lacks the letters of most."""

import logging
from functools import cache

from matplotlib.font_manager import findSystemFonts, fontManager, get_font

_DEFAULT = "DejaVu Sans"  # it comes with matplotlib


def font_families(text: str) -> list[str]:
    """Families for matplotlib that have the letters of a text between them: the default one, and
    others of the system where it lacks letters. If nobody has a letter, a warning says so once."""
    own = get_font(fontManager.findfont(_DEFAULT))
    lacking = frozenset(x for x in text if x.isalpha() and not own.get_char_index(ord(x)))
    return [_DEFAULT, *_system_families(lacking)]


@cache  # it opens one font after another
def _system_families(letters: frozenset[str]) -> list[str]:
    families: list[str] = []
    # matplotlib's own list is cached on disk and lacks what was installed since.
    for path in sorted(findSystemFonts(), key=lambda path: ("Regular" not in path, path)):
        if not letters:
            break
        try:
            font = get_font(path)
        except RuntimeError:  # it cannot be drawn, such as one of coloured pictures
            continue
        if has := {x for x in letters if font.get_char_index(ord(x))}:
            fontManager.addfont(path)
            families.append(font.family_name)
            letters -= has
    if letters:
        _warn_of_missing_font()
    return families


@cache  # once
def _warn_of_missing_font() -> None:
    logging.getLogger(__name__).warning(
        "No installed font has all letters of the names, which are drawn as empty boxes. Install "
        "one, such as the package fonts-noto-cjk (Chinese, Japanese, Korean) or fonts-noto-core."
    )
