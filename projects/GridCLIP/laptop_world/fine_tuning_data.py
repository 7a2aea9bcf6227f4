"""New categories for a trained detector, and the few pictures that it is fine-tuned on.

The new categories are six of a world's novel ones, two of each axis. The pictures are drawn with
another seed than the world's own: none of them is in its training or validation split.
"""

import itertools
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from PIL import Image

from gridclip.files import replacing, write_json
from laptop_world.shapes import build_scene, load_world, render
from laptop_world.shapes.dataset import item_box
from laptop_world.shapes.scenes import Scene

_NEW_PER_AXIS = 2
_FIRST_SEED = 1  # that of the worlds is 0
_SIZE = 128


@cache
def new_classes(world: str) -> tuple[int, ...]:
    """Contiguous ids of the new categories, ascending."""
    axes = load_world(world).novel_axes.values()
    return tuple(sorted(i for classes in axes for i in classes[:_NEW_PER_AXIS]))


@cache
def old_classes(world: str) -> tuple[int, ...]:
    """Contiguous ids of the categories that the detector was trained on, ascending."""
    return tuple(i for i, axis in enumerate(load_world(world).axes) if axis is None)


def unseen_names(world: str) -> list[str]:
    """Names that stay novel: neither training nor fine-tuning sees them."""
    known = {*new_classes(world), *old_classes(world)}
    return _names(world, set(range(len(load_world(world).names))) - known)


def groups(world: str) -> dict[str, list[str]]:
    """Names by what fine-tuning does with them: each group has an AP of its own. "other" is "old"
    and "unseen" together."""
    old, unseen = _names(world, old_classes(world)), unseen_names(world)
    new = _names(world, new_classes(world))
    return {"new": new, "old": old, "unseen": unseen, "other": [*old, *unseen]}


def _names(world: str, classes: Iterable[int]) -> list[str]:
    names = load_world(world).names
    return ["_".join(names[i]) for i in sorted(classes)]


def scenes(world: str, seed: int) -> Iterator[Scene]:
    """Endless: scenes with an object of a new category; the new categories take turns.

    They are drawn as a validation split is, where all categories are equally frequent.
    """
    waiting: dict[int, list[Scene]] = {new: [] for new in new_classes(world)}
    drawn = (build_scene(world, "val", i, _FIRST_SEED + seed) for i in itertools.count())
    for new in itertools.cycle(waiting):
        while not waiting[new]:
            scene = next(drawn)
            if held := {item.category_id for item in scene.items} & waiting.keys():
                # A scene is used once, for the category of which the fewest wait.
                waiting[min(held, key=lambda c: (len(waiting[c]), c))].append(scene)
        yield waiting[new].pop(0)


def write_pictures(world: str, seed: int, count: int, folder: Path) -> None:
    """Draw ``count`` pictures as ``folder/N.png``; those of a smaller count are the first of them.

    Beside them are annotation files, in which every object of a new category has a box and no other
    object has one. In ``unknown.json`` nothing is said of old names. In ``absent.json`` they are
    said to be absent, as in a complete annotation, which is wrong where there are some. Of unseen
    names neither says anything.
    """
    picked = list(itertools.islice(scenes(world, seed), count))
    for i, scene in enumerate(picked):
        with replacing(folder / f"{i}.png") as partial:
            Image.fromarray(render(scene, _SIZE)).save(partial)
    boxes = [box for i, scene in enumerate(picked) for box in _boxes(world, i, scene)]
    annotations = [{"id": number, **box} for number, box in enumerate(boxes, start=1)]
    names = ["_".join(name) for name in load_world(world).names]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
    for kind, absent in (("unknown", ()), ("absent", old_classes(world))):
        images = [_image(world, i, scene, absent) for i, scene in enumerate(picked)]
        content = {"categories": categories, "images": images, "annotations": annotations}
        write_json(folder / f"{kind}.json", content)


def _image(world: str, index: int, scene: Scene, absent: Iterable[int]) -> dict:
    present = {item.category_id for item in scene.items}
    negatives = {*absent, *(set(new_classes(world)) - present)}
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
            x0, y0, x1, y1 = item_box(item, _SIZE)
            box = [x0, y0, x1 - x0, y1 - y0]
            yield {"image_id": index + 1, "category_id": item.category_id + 1, "bbox": box}
