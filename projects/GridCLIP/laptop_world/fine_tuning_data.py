"""New categories for a trained detector, and the few pictures that it is fine-tuned on.

The new categories are six of a world's novel ones, two of each axis. The pictures are drawn with
another seed than the world's own, so none of them is in its training or validation split.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from gridclip.files import replacing, write_json
from laptop_world.shapes import build_scene, load_world, render
from laptop_world.shapes.dataset import clip_to_unit_square
from laptop_world.shapes.scenes import Scene

_NEW_PER_AXIS = 2
_FIRST_SEED = 1  # that of the worlds is 0
_SIZE = 128


@cache
def new_classes(world: str) -> tuple[int, ...]:
    """Contiguous ids of the new categories, ascending."""
    axes = load_world(world).novel_axes.values()
    return tuple(sorted(i for classes in axes for i in classes[:_NEW_PER_AXIS]))


def new_names(world: str) -> list[str]:
    return _names(world, new_classes(world))


def old_names(world: str) -> list[str]:
    """Names that the detector was trained on."""
    return _names(world, set(range(len(load_world(world).names))) - set(_novel(world)))


def unseen_names(world: str) -> list[str]:
    """Novel names that stay novel: no training, no fine-tuning and no choice sees them."""
    return _names(world, set(_novel(world)) - set(new_classes(world)))


def groups(world: str) -> dict[str, list[str]]:
    """Names by what fine-tuning does with them: each has an AP of its own."""
    old, unseen = old_names(world), unseen_names(world)
    return {"new": new_names(world), "old": old, "unseen": unseen, "other": [*old, *unseen]}


def _novel(world: str) -> list[int]:
    return load_world(world).novel_classes


def _names(world: str, classes) -> list[str]:
    names = load_world(world).names
    return ["_".join(names[i]) for i in sorted(classes)]


def scenes(world: str, seed: int) -> Iterator[Scene]:
    """Scenes with an object of a new category; the new categories take turns. They are drawn as a
    validation split is, in which all categories are equally frequent."""
    waiting: dict[int, list[Scene]] = {new: [] for new in new_classes(world)}
    drawn = (build_scene(world, "val", i, _FIRST_SEED + seed) for i in itertools.count())
    for new in itertools.cycle(waiting):
        while not waiting[new]:
            scene = next(drawn)
            held = {item.category_id for item in scene.items} & waiting.keys()
            if held:
                # Each scene is used once: for the category that has the fewest waiting.
                waiting[min(held, key=lambda c: (len(waiting[c]), c))].append(scene)
        yield waiting[new].pop(0)


def write_pictures(world: str, seed: int, count: int, folder: Path) -> None:
    """Draw the first ``count`` pictures of a seed as ``folder/N.png``, and write
    ``folder/unknown.json`` and ``folder/negative.json``: every object of a new category has a box,
    no other object has one. Old names are unknown there, or taken as absent."""
    picked = list(itertools.islice(scenes(world, seed), count))
    for i, scene in enumerate(picked):
        with replacing(folder / f"{i}.png") as partial:
            Image.fromarray(render(scene, _SIZE)).save(partial)
    names = load_world(world).names
    categories = [{"id": i + 1, "name": "_".join(name)} for i, name in enumerate(names)]
    old = set(range(len(names))) - set(_novel(world))
    for kind, absent in (("unknown", set()), ("negative", old)):
        images = [_image(world, i, scene, absent) for i, scene in enumerate(picked)]
        boxes = [
            {"id": number + 1, **box}
            for number, box in enumerate(b for i, s in enumerate(picked) for b in _boxes(world, i, s))
        ]
        content = {"categories": categories, "images": images, "annotations": boxes}
        write_json(folder / f"{kind}.json", content)


def _image(world: str, index: int, scene: Scene, absent: set[int]) -> dict:
    present = {item.category_id for item in scene.items}
    negatives = absent | (set(new_classes(world)) - present)
    return {
        "id": index + 1,
        "file_name": f"{index}.png",
        "width": _SIZE,
        "height": _SIZE,
        "neg_category_ids": sorted(i + 1 for i in negatives),
        "not_exhaustive_category_ids": [],
    }


def _boxes(world: str, index: int, scene: Scene) -> Iterator[dict]:
    for item in scene.items:
        if item.category_id in new_classes(world):
            x, y = clip_to_unit_square(item.polygon).T * _SIZE
            box = [x.min(), y.min(), np.ptp(x), np.ptp(y)]
            yield {
                "image_id": index + 1,
                "category_id": item.category_id + 1,
                "bbox": [float(v) for v in box],
            }
