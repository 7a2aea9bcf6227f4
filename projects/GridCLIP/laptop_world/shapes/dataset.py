"""ShapesLVIS: written to disk in LVIS v1's format."""

import hashlib
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin
from tqdm import tqdm

from gridclip.files import replacing

from .drawing import render
from .scenes import BLOCK, COMMON_IMAGES_PER_BLOCK, RARE_IMAGES_PER_BLOCK, Item, Scene, build_scene
from .vocabulary import load_world

# Part of every picture's recipe. Raise it with any change of what is drawn.
_VERSION = 1
_FIRST_IDS = {"train": 1, "val": 1_000_001}


@dataclass(frozen=True)
class GeneratedShapes:
    """What was generated.

    Attributes:
        json_files: the annotation file of each split.
        annotations_sha256: digest of the annotation files.
        sha256: digest of the annotation files and all pixels. Versions of numpy and Pillow that
            round differently give other pixels.
        drawn: number of pictures drawn; the others existed.
    """

    json_files: dict[str, Path]
    annotations_sha256: str
    sha256: str
    drawn: int


def generate_shapes(
    world: str,
    root: str | os.PathLike,
    *,
    train: int = 4000,
    val: int = 1000,
    size: int = 128,
    seed: int = 0,
    num_workers: int = 0,
) -> GeneratedShapes:
    """Write ``root/shapes_{world}_{split}.json`` and ``root/shapes_{world}_{split}/*.png``.

    A picture depends on world, split, seed, size and its index, and not on the number of pictures
    or workers. Existing pictures are kept if they are whole and were drawn with the same settings.
    The annotation files are written last.

    Args:
        world: "dev" or "test".
        root: a folder, created if it does not exist.
        train: number of training pictures. For multiples of 400 the rare categories are exactly
            the novel ones.
        val: number of validation pictures. All categories are equally frequent in them.
        size: side of a picture in pixels, at least 32.
        seed: of the scenes.
        num_workers: processes that draw; with 0 this process draws.

    Raises:
        ValueError: for an unknown world or a number out of range.
    """
    load_world(world)
    if min(train, val) < 1 or max(train, val) >= 1_000_000 or size < 32 or seed < 0:
        raise ValueError(
            f"train={train}, val={val}, size={size}, seed={seed}: a split has 1 to 999,999 "
            "pictures of at least 32 pixels, and seeds count from 0."
        )
    scenes, pixels, drawn = {}, hashlib.sha256(), 0
    for split, count in (("train", train), ("val", val)):
        folder = Path(root) / f"shapes_{world}_{split}"
        folder.mkdir(parents=True, exist_ok=True)
        work = partial(_build_and_write, world, split, seed, size, folder)
        with _mapper(num_workers) as apply:
            done = list(tqdm(apply(work, range(count)), folder.name, count, unit="picture"))
        scenes[split] = [scene for scene, _, _ in done]
        for _, digest, new in done:
            pixels.update(digest)
            drawn += new

    categories = _categories(world, scenes["train"])
    annotations, json_files = hashlib.sha256(), {}
    for split in scenes:
        json_files[split] = Path(root) / f"shapes_{world}_{split}.json"
        text = json.dumps(_lvis_json(world, split, scenes[split], size, categories)).encode()
        with replacing(json_files[split]) as partial_file:
            partial_file.write_bytes(text)
        annotations.update(text)
    both = hashlib.sha256(annotations.digest() + pixels.digest())
    return GeneratedShapes(json_files, annotations.hexdigest(), both.hexdigest(), drawn)


def how_to_generate(root: str | os.PathLike, world: str) -> str:
    """What to do where a world is not there."""
    return f"Write it with python -m laptop_world.generate --world {world} --output {root}"


def novel_names(world: str) -> list[str]:
    """The names of a world's novel categories."""
    return [name for names in novel_axes(world).values() for name in names]


def novel_axes(world: str) -> dict[str, list[str]]:
    """The names of a world's novel categories by the axis on which they are novel."""
    loaded = load_world(world)
    return {
        axis: ["_".join(loaded.names[i]) for i in classes]
        for axis, classes in loaded.novel_axes.items()
    }


def _categories(world_name: str, train: list[Scene]) -> list[dict]:
    """The categories in LVIS's format, with their frequencies in the training scenes."""
    images, instances = Counter(), Counter()
    for scene in train:
        ids = [item.category_id for item, _ in _annotated(scene)]
        images.update(set(ids))
        instances.update(ids)
    blocks = -(-len(train) // BLOCK)
    world = load_world(world_name)
    categories = []
    for i, (name, axis) in enumerate(zip(world.names, world.axes, strict=True)):
        rare = images[i] <= RARE_IMAGES_PER_BLOCK * blocks
        common = images[i] <= COMMON_IMAGES_PER_BLOCK * blocks
        categories.append(
            {
                "id": i + 1,
                "name": "_".join(name),
                "synonyms": ["_".join(name)],
                "synset": f"{'_'.join(name)}.n.01",
                "def": f"a {name.texture} {name.shape} of {name.colour} colour",
                "frequency": "r" if rare else "c" if common else "f",
                "image_count": images[i],
                "instance_count": instances[i],
                "novel_axis": axis,
            }
        )
    return categories


def _lvis_json(
    world: str, split: str, scenes: list[Scene], size: int, categories: list[dict]
) -> dict:
    images, annotations = [], []
    for index, scene in enumerate(scenes):
        image_id = _FIRST_IDS[split] + index
        unannotated = {scene.items[i].category_id for i in scene.unannotated}
        images.append(
            {
                "id": image_id,
                "width": size,
                "height": size,
                "coco_url": f"http://shapes.invalid/shapes_{world}_{split}/{_file_name(index)}",
                "neg_category_ids": [i + 1 for i in scene.negatives],
                "not_exhaustive_category_ids": sorted(i + 1 for i in unannotated),
            }
        )
        for item, polygon in _annotated(scene):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": item.category_id + 1,
                    **_geometry(polygon * size),
                }
            )
    info = {"description": f"ShapesLVIS {world} {split}", "version": str(_VERSION)}
    return {
        "info": info,
        "licenses": [],
        "categories": categories,
        "images": images,
        "annotations": annotations,
    }


def _annotated(scene: Scene) -> list[tuple]:
    """The annotated items and their outlines, (points, 2), clipped to the picture."""
    return [
        (item, clip_to_unit_square(item.polygon))
        for i, item in enumerate(scene.items)
        if item.category_id is not None and i not in scene.unannotated
    ]


def _geometry(polygon: np.ndarray) -> dict:
    """LVIS's segmentation, bbox (XYWH) and area of an outline, (points, 2) in pixels.

    They cover the whole outline, including parts that other items hide. Coordinates are rounded to
    1/16: floats hold these numbers and their sums exactly.
    """
    x, y = (np.round(polygon * 16) / 16).T
    twice_area = x @ np.roll(y, -1) - y @ np.roll(x, -1)
    return {
        "segmentation": [np.stack([x, y], 1).ravel().tolist()],
        "bbox": [x.min(), y.min(), np.ptp(x), np.ptp(y)],
        "area": abs(twice_area) / 2,
    }


def item_box(item: Item, size: int) -> list[float]:
    """XYXY of an item's outline in a picture of ``size`` pixels a side, clipped to it."""
    x, y = clip_to_unit_square(item.polygon).T * size
    return [float(v) for v in (x.min(), y.min(), x.max(), y.max())]


def clip_to_unit_square(polygon: np.ndarray) -> np.ndarray:
    """The part of a polygon, (points, 2), inside the square from 0 to 1.

    The algorithm is Sutherland and Hodgman's: if the square splits a concave polygon, its parts
    stay joined along the edge of the square.
    """
    for axis, sign, bound in ((0, 1, 0), (0, -1, -1), (1, 1, 0), (1, -1, -1)):
        distance = sign * polygon[:, axis] - bound
        kept = []
        for i, point in enumerate(polygon):
            before, d0, d1 = polygon[i - 1], distance[i - 1], distance[i]
            if (d0 >= 0) != (d1 >= 0):
                kept.append(before + (point - before) * (d0 / (d0 - d1)))
            if d1 >= 0:
                kept.append(point)
        polygon = np.array(kept).reshape(-1, 2)
    return polygon.clip(0, 1)


def _build_and_write(
    world: str, split: str, seed: int, size: int, folder: Path, index: int
) -> tuple[Scene, bytes, bool]:
    """Draw a picture, unless it exists.

    Returns:
        Its scene, the sha256 of its pixels, and whether it was drawn.
    """
    scene = build_scene(world, split, index, seed)
    recipe = f"ShapesLVIS {_VERSION}: {world} {split} {index}, seed {seed}, {size} px"
    path = folder / _file_name(index)
    pixels = _read(path, recipe)
    if missing := pixels is None:
        pixels = render(scene, size)
        with replacing(path) as partial_file:
            info = PngImagePlugin.PngInfo()
            info.add_text("recipe", recipe)
            Image.fromarray(pixels).save(partial_file, "PNG", pnginfo=info, compress_level=3)
    return scene, hashlib.sha256(pixels.tobytes()).digest(), missing


def _read(path: Path, recipe: str) -> np.ndarray | None:
    """The pixels of a picture; None if it is absent, broken, or drawn from another recipe."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return np.asarray(image) if image.info.get("recipe") == recipe else None
    except (OSError, SyntaxError, ValueError):  # Pillow raises all three for broken files
        return None


def _file_name(index: int) -> str:
    return f"{index:06}.png"


@contextmanager
def _mapper(num_workers: int) -> Iterator:
    """A function like ``map``, lazy and in order, which runs in ``num_workers`` processes."""
    if not num_workers:
        yield map
        return
    with multiprocessing.Pool(num_workers) as pool:
        yield partial(pool.imap, chunksize=16)
