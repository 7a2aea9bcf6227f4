"""Fonts for names in any script: a font has the letters of a few, so a text may need several."""

import unicodedata
import warnings
from functools import cache
from itertools import groupby

from matplotlib.font_manager import findfont, findSystemFonts, fontManager, get_font
from PIL import ImageFont


def font_runs(text: str) -> list[tuple[str, str]]:
    """Cut a text into parts that one font has all letters of.

    Returns:
        Of each part its font's file and the part. matplotlib's DejaVu Sans comes first, then what
        the system has. Letters that no font has are in a part of DejaVu Sans, which draws empty
        boxes for them; a warning says so once.
    """
    files: list[str] = []
    for letter in text:
        # Accents and vowel signs are drawn onto the letter before them.
        follows = bool(files) and (letter == " " or unicodedata.category(letter)[0] in "MC")
        files.append(files[-1] if follows else _font_with(letter))
    cut = groupby(zip(files, text, strict=True), key=lambda pair: pair[0])
    return [(file, "".join(letter for _, letter in pairs)) for file, pairs in cut]


def font_families(text: str) -> list[str]:
    """The fonts of :func:`font_runs`, for matplotlib's ``set_family``."""
    families = dict.fromkeys(["DejaVu Sans"])
    for file, _ in font_runs(text):
        fontManager.addfont(file)
        families[get_font(file).family_name] = None
    return list(families)


@cache
def load_font(file: str, size: int) -> ImageFont.FreeTypeFont:
    """A font for PIL, with letters of ``size`` pixels."""
    return ImageFont.truetype(file, size)


@cache
def default_font() -> str:
    """The file of the font that is always there."""
    return findfont("DejaVu Sans")


def _font_with(letter: str) -> str:
    if ord(letter) in _default_letters():
        return default_font()
    file = _system_letters().get(ord(letter))
    if file is None and letter.isalpha():
        warnings.warn(  # shown once, as its text never changes
            "No installed font has all letters of the names: empty boxes are drawn. Install one, "
            "such as the package fonts-noto-cjk (Chinese, Japanese, Korean) or fonts-noto-core.",
            stacklevel=1,
        )
    return file or default_font()


@cache
def _default_letters() -> frozenset[int]:
    return frozenset(get_font(default_font()).get_charmap())


@cache  # it opens every font
def _system_letters() -> dict[int, str]:
    """The file of the first installed font that has a letter."""
    found: dict[int, str] = {}
    # matplotlib's own list is cached on disk and lacks what was installed since.
    for path in sorted(findSystemFonts(), key=lambda path: ("Regular" not in path, path)):
        try:
            letters = get_font(path).get_charmap()
            ImageFont.truetype(path, 16)
        except (RuntimeError, OSError):  # broken, or it has coloured pictures of one size
            continue
        for letter in letters:
            found.setdefault(letter, path)
    return found
