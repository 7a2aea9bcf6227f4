"""The outlines of the shapes, and which points lie inside them."""

import math
from functools import cache

import numpy as np

GRID = 48  # cells along each side of the table of a shape's inside
_POLYGONS = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0, -0.95), (1, 0.8), (-1, 0.8)],
    "arrow": [(0, -1), (0.8, 0), (0.3, 0), (0.3, 1), (-0.3, 1), (-0.3, 0), (-0.8, 0)],
    "house": [(0, -1), (1, -0.1), (0.7, -0.1), (0.7, 0.9), (-0.7, 0.9), (-0.7, -0.1), (-1, -0.1)],
    # The distractors, which are in no category:
    "L": [(-0.7, -1), (-0.15, -1), (-0.15, 0.45), (0.8, 0.45), (0.8, 1), (-0.7, 1)],
    "T": [(-1, -0.9), (1, -0.9), (1, -0.3), (0.3, -0.3), (0.3, 1), (-0.3, 1), (-0.3, -0.3)]
    + [(-1, -0.3)],
    "U": [(-0.9, -1), (-0.35, -1), (-0.35, 0.4), (0.35, 0.4), (0.35, -1), (0.9, -1), (0.9, 1)]
    + [(-0.9, 1)],
    "Z": [(-0.9, -0.9), (0.9, -0.9), (0.9, -0.5), (-0.2, 0.4), (0.9, 0.4), (0.9, 0.9), (-0.9, 0.9)]
    + [(-0.9, 0.5), (0.2, -0.4), (-0.9, -0.4)],
    "E": [(-0.7, -1), (0.7, -1), (0.7, -0.6), (-0.2, -0.6), (-0.2, -0.2), (0.5, -0.2), (0.5, 0.2)]
    + [(-0.2, 0.2), (-0.2, 0.6), (0.7, 0.6), (0.7, 1), (-0.7, 1)],
    "H": [(-0.9, -1), (-0.4, -1), (-0.4, -0.2), (0.4, -0.2), (0.4, -1), (0.9, -1), (0.9, 1)]
    + [(0.4, 1), (0.4, 0.25), (-0.4, 0.25), (-0.4, 1), (-0.9, 1)],
}
DISTRACTORS = ("L", "T", "U", "Z", "E", "H")


@cache
def outline(shape: str) -> np.ndarray:
    """A shape's polygon: (points, 2) float64 x, y in the range -1 to 1, with y pointing down.

    The polygon of the ring follows the outer circle, crosses to the hole, and follows that.
    """
    if shape in _POLYGONS:
        points = np.array(_POLYGONS[shape], float)
    else:
        points = np.stack(_CURVES[shape](), 1)
    points.setflags(write=False)
    return points


def _polar(radius, angle):
    return radius * np.sin(angle), -radius * np.cos(angle)


def _turn(count: int, endpoint: bool = False) -> np.ndarray:
    return np.linspace(0, 2 * math.pi, count, endpoint=endpoint)


def _star():
    return _polar(np.tile([1, 0.42], 5), _turn(10))


def _cross():
    signs = np.array([(1, -1), (1, 1), (-1, 1), (-1, -1)])
    arm = np.array([(0.32, 1), (0.32, 0.32), (1, 0.32)])
    points = [arm[:: 1 if i % 2 else -1] * sign for i, sign in enumerate(signs)]
    return np.concatenate([p[::-1] for p in points]).T


def _ring():
    outer, inner = _polar(1, _turn(40, True)), _polar(0.55, -_turn(28, True))
    return tuple(np.concatenate(pair) for pair in zip(outer, inner, strict=True))


def _moon():
    tip = math.radians(35)
    back = np.linspace(tip, 2 * math.pi - tip, 32)
    x0, radius = math.cos(tip) - 0.27, math.hypot(0.27, math.sin(tip))
    reach = math.atan2(math.sin(tip), 0.27)
    hollow = np.linspace(2 * math.pi - reach, reach, 24)[1:-1]
    x = np.concatenate([np.cos(back), x0 + radius * np.cos(hollow)])
    y = np.concatenate([np.sin(back), radius * np.sin(hollow)])
    return x, y


def _heart():
    t = _turn(40)
    x, y = np.sin(t) ** 3, 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return x, -(y + 2.5) / 14.5


def _flower():
    angle = _turn(60)
    return _polar(0.45 + 0.55 * np.abs(np.cos(2.5 * angle)), angle)


def _fish():
    angle = np.linspace(0.35, 2 * math.pi - 0.35, 32)
    x, y = -0.3 + 0.7 * np.cos(angle), 0.55 * np.sin(angle)
    return np.append(x, [1, 0.75, 1]), np.append(y, [-0.6, 0, 0.6])


_CURVES = {
    "circle": lambda: _polar(1, _turn(40)),
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
    "heart": _heart,
    "flower": _flower,
    "fish": _fish,
}


@cache
def occupied(shape: str) -> np.ndarray:
    """Which cells lie inside a shape's outline, by the even-odd rule: (GRID + 2, GRID + 2) bool.

    The inner GRID x GRID cells divide the square from -1 to 1. A rim of empty cells surrounds them.
    """
    centres = (np.arange(GRID) + 0.5) * (2 / GRID) - 1
    x, y = (a.reshape(-1, 1) for a in np.meshgrid(centres, centres))
    (x0, y0), (x1, y1) = outline(shape).T, np.roll(outline(shape), -1, 0).T
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return np.pad((crossing.sum(1) % 2 == 1).reshape(GRID, GRID), 1)


@cache
def interior_points(shape: str) -> np.ndarray:
    """Points inside a shape's outline, (M, 2) x, y, on a grid half as dense as the table."""
    y, x = np.nonzero(occupied(shape)[1:-1:2, 1:-1:2])
    return (np.stack([x, y], 1) * 2 + 0.5) * (2 / GRID) - 1
