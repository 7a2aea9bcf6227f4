"""Draws scenes: items with textures, on background clutter, with light and noise."""

import colorsys
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .scenes import Item, Scene

_HUES = {"red": 0, "orange": 27, "yellow": 54, "green": 125, "blue": 218, "purple": 277}
_SUPERSAMPLING = 2
# The period of each pattern, relative to the item's length, and the least period in pixels, which
# keeps the patterns of small items visible.
_PERIODS = {"striped": (0.3, 5), "dotted": (0.3, 6), "checkered": (0.5, 8)}


def render(scene: Scene, size: int) -> np.ndarray:
    """The picture of a scene: (size, size, 3) uint8 RGB.

    The bytes are the same for the same versions of numpy and Pillow. Other versions may round
    differently.
    """
    rng = np.random.default_rng((*scene.key, 3))
    canvas = _background(rng, size * _SUPERSAMPLING)
    for item in scene.items:
        _draw_item(canvas, item, rng)
    pixels = np.asarray(canvas.reduce(_SUPERSAMPLING), np.float32)
    pixels = pixels * _light(rng, size)
    pixels += rng.standard_normal(pixels.shape, np.float32) * rng.uniform(2, 9)
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value), np.float32)


def _any_colour(rng: np.random.Generator) -> tuple[int, ...]:
    colour = _colour(rng.uniform(0, 360), rng.uniform(0, 0.55), rng.uniform(0.2, 0.95))
    return tuple(colour.astype(int).tolist())


def _background(rng: np.random.Generator, side: int) -> Image.Image:
    """A soft field of colours with blobs, polygons and lines over it."""
    cells = int(rng.integers(2, 6))
    mean = np.array(_any_colour(rng))
    patches = mean + rng.normal(0, rng.uniform(10, 40), (cells, cells, 3))
    coarse = Image.fromarray(np.clip(patches, 0, 255).astype(np.uint8))
    canvas = coarse.resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas, "RGBA")
    for _ in range(rng.integers(3, 12)):
        fill = (*_any_colour(rng), int(rng.integers(50, 190)))
        x, y = rng.uniform(-0.1, 1.1, 2) * side
        if rng.random() < 0.5:
            w, h = rng.uniform(0.02, 0.2, 2) * side
            draw.ellipse((x - w, y - h, x + w, y + h), fill=fill)
        else:
            corners = (x, y) + rng.normal(0, 0.12, (int(rng.integers(3, 6)), 2)) * side
            draw.polygon([tuple(p) for p in corners.tolist()], fill=fill)
    for _ in range(rng.integers(2, 9)):
        fill = (*_any_colour(rng), int(rng.integers(90, 230)))
        ends = (rng.uniform(-0.1, 1.1, 4) * side).tolist()
        draw.line(ends, fill=fill, width=max(1, round(rng.uniform(0.004, 0.025) * side)))
    return canvas


def _light(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) float32 factors for the pixels: uneven brightness with a slight tint."""
    corners = rng.uniform(0.7, 1.2, (2, 2)).astype(np.float32)
    field = Image.fromarray(corners).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(field)[..., None] * rng.uniform(0.93, 1.07, 3).astype(np.float32)


def _draw_item(canvas: Image.Image, item: Item, rng: np.random.Generator) -> None:
    """Draw one item with its texture on the canvas."""
    side = canvas.width
    length = 2 * side * math.sqrt(abs(np.linalg.det(item.matrix)))  # of the item, in pixels
    border = round(max(0.06 * length, _SUPERSAMPLING))
    polygon = item.polygon * side
    x0, y0 = np.floor(np.maximum(polygon.min(0) - border, 0)).astype(int).tolist()
    x1, y1 = np.ceil(np.minimum(polygon.max(0) + border, side)).astype(int).tolist()
    box = (x0, y0, x1, y1)
    mask = Image.new("L", (x1 - x0, y1 - y0))
    ImageDraw.Draw(mask).polygon([tuple(p) for p in (polygon - (x0, y0)).tolist()], fill=255)

    first, second = _tones(item.name.colour, rng)
    canvas.paste(first, box, mask)
    if item.name.texture == "plain":
        return
    if item.name.texture == "bordered":
        # The border is two sigmas wide: at that distance inside a straight edge, the blurred mask
        # has risen to 97.7% (249 of 255).
        second_tone = np.asarray(mask.filter(ImageFilter.GaussianBlur(border / 2))) < 249
    else:
        second_tone = _pattern(item, box, side, length, rng)
    canvas.paste(second, box, Image.fromarray(np.asarray(mask) * second_tone))


def _tones(colour: str, rng: np.random.Generator) -> tuple[tuple[int, ...], ...]:
    """RGB of an item and of its pattern, which is a shade of the same colour."""
    hue = _HUES[colour] + rng.uniform(-7, 7)
    bright = colour in ("orange", "yellow")
    first = _colour(hue, rng.uniform(0.75, 1), rng.uniform(0.85 if bright else 0.65, 1))
    if bright or colour == "green":
        second = first * rng.uniform(0.2, 0.4)
    else:
        second = first + (255 - first) * rng.uniform(0.65, 0.85)
    return tuple(first.astype(int).tolist()), tuple(second.astype(int).tolist())


def _pattern(item: Item, box, side: int, length: float, rng: np.random.Generator) -> np.ndarray:
    """Where the pattern has the second tone: (height, width) bool for ``box`` of the canvas."""
    texture = item.name.texture
    phase, tilt = rng.random(2), rng.uniform(-0.4, 0.4)
    share, pixels = _PERIODS[texture]
    period = max(share * rng.uniform(0.8, 1.1) * length, pixels * _SUPERSAMPLING)

    # Coordinates u, v of the pattern, in periods. They turn with the item.
    a, c = item.matrix[:, 0] / np.hypot(*item.matrix[:, 0])
    cos, sin = math.cos(tilt), math.sin(tilt)
    turn = np.array([[cos, sin], [-sin, cos]]) @ np.array([[a, c], [-c, a]]) / period
    turn, phase = turn.astype(np.float32), phase.astype(np.float32)
    x = np.arange(box[0], box[2], dtype=np.float32) + 0.5 - float(item.centre[0] * side)
    y = np.arange(box[1], box[3], dtype=np.float32)[:, None] + 0.5 - float(item.centre[1] * side)
    u = (turn[0, 0] * x + turn[0, 1] * y + phase[0]) % 1
    v = (turn[1, 0] * x + turn[1, 1] * y + phase[1]) % 1
    if texture == "striped":
        return u < 0.5
    if texture == "checkered":
        return (u < 0.5) != (v < 0.5)
    return (u - 0.5) ** 2 + (v - 0.5) ** 2 < 0.3**2  # dotted
