"""The words of ShapesLVIS, and which names are novel in which world.

A name is a texture, a colour and a shape: "striped red star". A world has 130 of the 360 names as
its categories: 96 base categories and 34 novel ones. A category is novel on one of three *axes*:

* ``combination``: base categories have each of the three words, but not all three together;
* ``shape``: no base category has the shape;
* ``texture``: no base category has the texture.

The two worlds share the words and differ in what is novel. Choices are made on ``dev``, and results
are reported on ``test``. No name is novel in both.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import NamedTuple

TEXTURES = ("plain", "striped", "dotted", "checkered", "bordered")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "moon",
    "arrow",
    "flower",
    "fish",
    "house",
)
AXES = ("combination", "shape", "texture")

_BASE, _COMBINATIONS, _PER_NOVEL_SHAPE, _PER_NOVEL_TEXTURE = 96, 10, 7, 10


class Name(NamedTuple):
    """The words of a category."""

    texture: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return " ".join(self)


ALL_NAMES = tuple(Name(*words) for words in product(TEXTURES, COLOURS, SHAPES))


@dataclass(frozen=True)
class World:
    """The categories of a world.

    Attributes:
        name: "dev" or "test".
        names: of the categories. A category's contiguous id is its index; its LVIS id is one more.
        axes: the axis on which each category is novel; None for a base category.
    """

    name: str
    names: tuple[Name, ...]
    axes: tuple[str | None, ...]

    @property
    def novel_classes(self) -> list[int]:
        """The contiguous ids of the novel categories."""
        return [i for i, axis in enumerate(self.axes) if axis]

    @property
    def novel_axes(self) -> dict[str, list[int]]:
        """The contiguous ids of the novel categories by axis."""
        return {axis: [i for i, a in enumerate(self.axes) if a == axis] for axis in AXES}


@cache
def load_world(name: str) -> World:
    """The world "dev" or "test". Raises ValueError for another name."""
    if name == "dev":
        return _build(name, ("heart", "arrow"), "dotted", frozenset())
    if name == "test":
        dev = load_world("dev")
        taken = frozenset(dev.names[i] for i in dev.novel_classes)
        return _build(name, ("moon", "fish"), "checkered", taken)
    raise ValueError(f"There is no world '{name}': choose dev or test.")


def _build(
    world: str, novel_shapes: tuple[str, ...], novel_texture: str, not_novel: frozenset[Name]
) -> World:
    shuffled = _shuffle(ALL_NAMES, world)
    known = [n for n in shuffled if n.shape not in novel_shapes and n.texture != novel_texture]
    may_be_novel = [n for n in shuffled if n not in not_novel]

    axis_of = {}
    for shape in novel_shapes:
        chosen = [n for n in may_be_novel if n.shape == shape and n.texture != novel_texture]
        axis_of.update(dict.fromkeys(chosen[:_PER_NOVEL_SHAPE], "shape"))
    chosen = [n for n in may_be_novel if n.texture == novel_texture and n.shape not in novel_shapes]
    axis_of.update(dict.fromkeys(chosen[:_PER_NOVEL_TEXTURE], "texture"))
    chosen = [n for n in known if n not in not_novel][:_COMBINATIONS]
    axis_of.update(dict.fromkeys(chosen, "combination"))

    base = [n for n in known if n not in axis_of][:_BASE]
    names = tuple(sorted([*base, *axis_of]))
    return World(world, names, tuple(axis_of.get(n) for n in names))


def _shuffle(names, salt: str) -> list[Name]:
    """A fixed random order, which does not depend on any library's random numbers."""
    return sorted(names, key=lambda n: hashlib.sha256(f"{salt}:{n}".encode()).digest())
