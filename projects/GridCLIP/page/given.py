"""What a person gives: pictures within limits, words, and examples drawn as boxes."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from gridclip.pictures import read_picture
from gridclip.prediction import shorten

MAX_PIXELS = 50_000_000
MAX_NAMES = 200
MAX_EXAMPLES = 12
_VIEW_SIDES = 640, 1280  # the longer side of a picture as the page shows it, in pixels
_COLOR = "#ff8000"

Point = tuple[float, float]
Box = tuple[float, float, float, float]


class Example(NamedTuple):
    """Something that the person calls ``label``.

    Attributes:
        label, path: the name, and the picture's file.
        box: XYXY in the picture's pixels.
        crop: what is in the box, for the page.
    """

    label: str
    path: str
    box: Box
    crop: Image.Image


Queries = dict[str, list[str | tuple[str, Box]]]


def check_picture(path: str) -> None:
    """Refuses a picture by its header, before its pixels take memory.

    Raises:
        ValueError: it has too many pixels, or is not a picture.
    """
    try:
        with Image.open(path) as image:
            pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = MAX_PIXELS + 1
    except Exception as error:  # every image format has its own exceptions for a damaged file
        raise ValueError(f"{Path(path).name} can't be read as a picture.") from error
    if pixels > MAX_PIXELS:
        raise ValueError(
            f"{Path(path).name} has more than {MAX_PIXELS // 1_000_000} million pixels: make it "
            "smaller."
        )


def make_view(path: str) -> tuple[Image.Image, float]:
    """An upright picture at a size for the screen, where labels can be read.

    Returns:
        It, and its pixels for each pixel of the picture.
    """
    image = Image.fromarray(read_picture(path))
    longer = max(image.size)
    scale = min(max(longer, _VIEW_SIDES[0]), _VIEW_SIDES[1]) / longer
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return (image if size == image.size else image.resize(size)), scale


class Drawing(NamedTuple):
    """A box that is being drawn by two clicks on opposite corners.

    Attributes:
        path: of the picture.
        view, scale: of :func:`make_view`.
        corners: none, one or two points in the view.
    """

    path: str
    view: Image.Image
    scale: float
    corners: tuple[Point, ...] = ()

    @classmethod
    def on(cls, path: str) -> "Drawing":
        check_picture(path)
        return cls(path, *make_view(path))

    def clicked(self, point: Point) -> "Drawing":
        """With one more corner; a third starts another box."""
        corners = (*self.corners, point) if len(self.corners) < 2 else (point,)
        return self._replace(corners=corners)

    def example(self, label: str) -> Example:
        """Raises ValueError without a label, or without a box of some size."""
        label = " ".join(label.split())
        if not label:
            raise ValueError("Give the example a name.")
        if len(self.corners) < 2:
            raise ValueError("Draw a box first: click two opposite corners of it.")
        x0, y0, x1, y1 = (x / self.scale for x in self._box())
        if x1 - x0 < 1 or y1 - y0 < 1:
            raise ValueError("The box is too small: click two corners that are further apart.")
        crop = self.view.crop([round(x) for x in self._box()])
        return Example(label, self.path, (x0, y0, x1, y1), crop)

    def _box(self) -> Box:
        (xa, ya), (xb, yb) = self.corners
        return min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)

    def draw(self) -> Image.Image:
        """The view with what is drawn on it so far."""
        image = self.view.copy()
        draw, width = ImageDraw.Draw(image), max(3, max(image.size) // 200)
        if len(self.corners) == 2:
            draw.rectangle(self._box(), outline=_COLOR, width=width)
        for x, y in self.corners:
            size = 2 * width
            draw.ellipse((x - size, y - size, x + size, y + size), fill=_COLOR, outline="white")
        return image


def make_queries(words: str, examples: Sequence[Example]) -> Queries:
    """What to look for, by label; a word and examples of the same name stand for it together.

    Args:
        words: between commas or on lines of their own. A name twice counts once.
        examples: may be none.

    Raises:
        ValueError: there are too many names.
    """
    queries: Queries = {}
    labels: dict[str, str] = {}  # CLIP ignores case
    for word in re.split(r"[,\n]", words):
        if (name := " ".join(word.split())) and name.lower() not in labels:
            queries[labels.setdefault(name.lower(), name)] = [name]
    for label, path, box, _ in examples:
        queries.setdefault(labels.setdefault(label.lower(), label), []).append((path, box))
    if len(queries) > MAX_NAMES:
        raise ValueError(f"{len(queries)} names ({shorten(queries)}): take at most {MAX_NAMES}.")
    return queries
