"""What a picture shows and where. A scene depends on world, split, seed and index alone.

A scene knows nothing of pixels: positions and sizes are in units of the picture's side.
"""

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from .outlines import DISTRACTORS, GRID, interior_points, occupied, outline
from .vocabulary import ALL_NAMES, COLOURS, TEXTURES, Name, load_world

# Category frequencies are exact over each block of BLOCK successive pictures. LVIS calls a category
# rare up to 10 images and common up to 100. These limits hold here for 10 blocks, 4,000 pictures,
# and in proportion for other numbers of blocks.
BLOCK = 400
RARE_IMAGES_PER_BLOCK, COMMON_IMAGES_PER_BLOCK = 1, 10

MIN_SIZE, MAX_SIZE = 0.1, 0.85
MAX_OBJECTS = 6
# The least shares of an item that other items leave visible, and that are inside the picture.
MIN_VISIBLE, MIN_IN_PICTURE = 0.4, 0.7
_NEGATIVES = 12

_WORLD_CODES = {"dev": 1, "test": 2}
_SPLIT_CODES = {"train": 1, "val": 2, "captions_train": 3, "captions_val": 4}


@dataclass(frozen=True, eq=False)
class Item:
    """An object in a picture, or a distractor.

    Attributes:
        name: texture, colour and shape.
        category_id: contiguous id; None for a distractor.
        matrix: (2, 2), scales, turns and skews the unit outline.
        centre: (2,) x, y, moves it to its place.
    """

    name: Name
    category_id: int | None
    matrix: np.ndarray
    centre: np.ndarray

    @property
    def polygon(self) -> np.ndarray:
        """The outline, (points, 2) x, y, not clipped to the picture."""
        return outline(self.name.shape) @ self.matrix.T + self.centre

    def covers(self, points: np.ndarray) -> np.ndarray:
        """Which of the points, (M, 2) x, y, the item covers: (M,) bool."""
        (a, b), (c, d) = self.matrix.tolist()
        to_unit = np.array([[d, -c], [-b, a]]) / (a * d - b * c)
        # Points outside the table fall on its rim, which is empty.
        cells = ((points - self.centre) @ to_unit + 1) * (GRID / 2) + 1
        x, y = cells.clip(0, GRID + 1).astype(int).T
        return occupied(self.name.shape)[y, x]

    def interior(self) -> np.ndarray:
        """Points spread evenly over the item: (M, 2) x, y."""
        return interior_points(self.name.shape) @ self.matrix.T + self.centre


@dataclass(frozen=True)
class Scene:
    """The contents of a picture.

    Attributes:
        key: the seed of the picture's random numbers.
        items: from back to front.
        unannotated: indices into ``items`` of objects that are not annotated.
        negatives: contiguous ids of categories that are verified to be absent.
    """

    key: tuple[int, ...]
    items: tuple[Item, ...]
    unannotated: tuple[int, ...] = ()
    negatives: tuple[int, ...] = ()


def build_scene(world_name: str, split: str, index: int, seed: int = 0) -> Scene:
    """The scene of picture ``index`` (from 0) of a world's "train" or "val" split.

    In one of ten pictures in which a category has two or more objects, one of these is not
    annotated.
    """
    world = load_world(world_name)
    key = (seed, _WORLD_CODES[world_name], _SPLIT_CODES[split], index)
    rng = np.random.default_rng((*key, 0))
    present = _categories_of_block(world_name, split, seed, index // BLOCK)[index % BLOCK]

    repeats = int(rng.choice([0, 1, 2], p=[0.65, 0.25, 0.1]))
    wanted = [*present, *rng.choice(present, repeats).tolist()][:MAX_OBJECTS]
    things = [(world.names[i], i) for i in wanted] + _distractors(rng, int(rng.integers(0, 4)))
    items = _place(
        [things[i] for i in rng.permutation(len(things))],
        rng,
        sizes=(MIN_SIZE, MAX_SIZE),
        min_visible=MIN_VISIBLE,
        min_in_picture=MIN_IN_PICTURE,
    )

    unannotated = ()
    counts = Counter(item.category_id for item in items if item.category_id is not None)
    several = sorted(i for i, count in counts.items() if count > 1)
    if several and rng.random() < 0.1:
        unannotated = (next(i for i, t in enumerate(items) if t.category_id == several[0]),)

    # LVIS verifies the absence of frequent categories more often.
    weights = np.sqrt(_images_per_block(world_name, split))
    weights[present] = 0
    negatives = rng.choice(len(weights), _NEGATIVES, replace=False, p=weights / weights.sum())
    return Scene(key, items, unannotated, tuple(sorted(negatives.tolist())))


def build_caption_scene(split: str, index: int, seed: int = 0, max_objects: int = 3) -> Scene:
    """The scene of a captioned picture: 1 to ``max_objects`` objects, mostly one.

    All 360 names are equally likely.
    """
    key = (seed, 0, _SPLIT_CODES[f"captions_{split}"], index)
    rng = np.random.default_rng((*key, 0))
    count = 1 if rng.random() < 0.5 else int(rng.integers(1, max_objects + 1))
    things = [(ALL_NAMES[i], i) for i in rng.integers(len(ALL_NAMES), size=count).tolist()]
    # A caption names every object, so each is large enough to recognise and mostly visible.
    return Scene(key, _place(things, rng, sizes=(0.3, 0.9), min_visible=0.7, min_in_picture=0.95))


@cache
def _images_per_block(world_name: str, split: str) -> np.ndarray:
    """The mean number of pictures of a block that show each category: (C,) float64.

    Training pictures have a long tail. In validation pictures all categories are equally frequent,
    so that the AP of each is measured equally well.
    """
    world = load_world(world_name)
    count = len(world.names)
    if split == "val":
        return np.full(count, 3.0 * BLOCK / count)
    order = np.random.default_rng(_WORLD_CODES[world_name]).permutation(count)
    novel = [i for i in order if world.axes[i]]
    base = [i for i in order if not world.axes[i]]
    frequent, common = base[: len(base) * 9 // 16], base[len(base) * 9 // 16 :]
    images = np.empty(count)
    images[frequent] = np.geomspace(38, 11, len(frequent))
    images[common] = np.geomspace(9, 2, len(common))
    images[novel] = np.geomspace(1, 0.5, len(novel))
    return images


@lru_cache(maxsize=4)
def _categories_of_block(
    world_name: str, split: str, seed: int, block: int
) -> tuple[list[int], ...]:
    """The contiguous ids of the categories in each picture of a block."""
    rates = _images_per_block(world_name, split)
    codes = (seed, _WORLD_CODES[world_name], _SPLIT_CODES[split])
    # A category with a rate of 0.3 is in 3 of 10 successive blocks; its offset decides in which.
    offsets = np.random.default_rng((*codes, 1)).random(len(rates))
    offsets[rates == rates.round()] = 0
    due = np.floor((block + 1) * rates + offsets) - np.floor(block * rates + offsets)

    rng = np.random.default_rng((*codes, block, 2))
    wanted = rng.choice([1, 2, 3, 4, 5], BLOCK, p=[0.15, 0.2, 0.25, 0.2, 0.2])
    pictures = tuple([] for _ in range(BLOCK))
    loads = np.zeros(BLOCK)
    for category in rng.permutation(len(rates)).tolist():
        fullness = np.where(loads < MAX_OBJECTS, (loads + rng.random(BLOCK)) / wanted, np.inf)
        fullness[loads == 0] -= 1  # empty pictures come first
        emptiest = np.argsort(fullness, kind="stable")
        for picture in emptiest[: int(due[category])].tolist():
            pictures[picture].append(category)
            loads[picture] += 1
    return pictures


def _distractors(rng: np.random.Generator, count: int) -> list[tuple[Name, None]]:
    vocabularies = (TEXTURES, COLOURS, DISTRACTORS)
    return [
        (Name(*(words[rng.integers(len(words))] for words in vocabularies)), None)
        for _ in range(count)
    ]


def _place(
    things,
    rng: np.random.Generator,
    *,
    sizes: tuple[float, float],
    min_visible: float,
    min_in_picture: float,
) -> tuple[Item, ...]:
    """Place things, pairs of a name and a category id, each on top of those before it.

    A thing is placed at random, again and a little smaller each time, until ``min_in_picture`` of
    it is inside the picture and ``min_visible`` of every earlier one stays visible (shares of 1).

    Raises:
        RuntimeError: no place was found.
    """
    smallest, largest = sizes
    items, points, visible = [], [], []
    for name, category_id in things:
        size = smallest * (largest / smallest) ** rng.random()
        for _ in range(200):
            item = Item(name, category_id, _random_matrix(rng, size), rng.random(2))
            own = item.interior()
            own_visible = ((own >= 0) & (own <= 1)).all(1)
            if own_visible.mean() >= min_in_picture:
                left = [v & ~item.covers(p) for p, v in zip(points, visible, strict=True)]
                if all(v.mean() >= min_visible for v in left):
                    break
            size = max(smallest, 0.9 * size)
        else:
            raise RuntimeError(f"No place was found for the {name}.")
        items.append(item)
        points.append(own)
        visible = [*left, own_visible]
    return tuple(items)


def _random_matrix(rng: np.random.Generator, size: float) -> np.ndarray:
    angle = math.radians(rng.uniform(-60, 60))
    stretch = math.exp(rng.uniform(-0.15, 0.15))
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    skew = np.array([[stretch, rng.uniform(-0.12, 0.12)], [0, 1 / stretch]])
    return rotation @ skew * (size / 2)
