"""A random job for an LVIS evaluator, with the proportions of LVIS val.

There are 1203 categories. An image has 12.4 boxes of 3.4 categories, ten categories that are known
to be absent, and 300 detections.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from lvis import LVIS

DETECTIONS = 300
FREQUENCIES = {"f": 405, "c": 461, "r": 337}  # LVIS v1's categories
CATEGORIES = sum(FREQUENCIES.values())
HEIGHT, WIDTH = 480, 640


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) XYWH in pixels; sides are 8 to 400 pixels, log-uniform."""
    sides = 8 * 50 ** rng.random((count, 2))
    corners = rng.random((count, 2)) * [WIDTH, HEIGHT]
    return np.hstack([corners, sides]).round(2)


def make_dataset(num_images: int, seed: int) -> dict:
    """Annotations in LVIS's format; the number of boxes by category follows Zipf's law."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, CATEGORIES + 1)
    images, annotations = [], []
    for image_id in range(1, num_images + 1):
        positive = rng.choice(
            CATEGORIES, 1 + rng.poisson(2.4), replace=False, p=share / share.sum()
        )
        negative = np.setdiff1d(rng.choice(CATEGORIES, 10, replace=False), positive)
        # At least one box of each category.
        labels = np.concatenate([positive, rng.choice(positive, rng.poisson(8.95))]) + 1
        boxes = random_boxes(rng, len(labels))
        annotations += [
            {
                "id": len(annotations) + i + 1,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": box,
                "area": 0.7 * box[2] * box[3],
            }
            for i, (category_id, box) in enumerate(
                zip(labels.tolist(), boxes.tolist(), strict=True)
            )
        ]
        images.append(
            {
                "id": image_id,
                "height": HEIGHT,
                "width": WIDTH,
                "neg_category_ids": (negative + 1).tolist(),
                "not_exhaustive_category_ids": (positive[:1] + 1).tolist()
                if rng.random() < 0.16
                else [],
            }
        )
    frequencies = "".join(name * count for name, count in FREQUENCIES.items())
    categories = [
        {"id": i, "name": f"category {i}", "frequency": frequency}
        for i, frequency in enumerate(frequencies, 1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_file(path: Path, num_images: int, seed: int) -> None:
    """Write such annotations with polygons of 28 points on average. LVIS's own have some more: with
    100,170 images, as many as LVIS train has, the file is of 0.7 GB, and LVIS train's of 1.1 GB.

    It is made a thousand images at a time. The file of an image is ``train2017/<id>.jpg``.
    """
    encode = msgspec.json.encode
    images: list[dict] = []
    boxes = 0
    with open(path, "wb") as file:
        file.write(b'{"annotations": [')
        for part, first in enumerate(range(0, num_images, 1000)):
            made = make_dataset(min(1000, num_images - first), seed + part)
            rng = np.random.default_rng([seed, part])
            for annotation in made["annotations"]:
                annotation["bbox"] = _inside(*annotation["bbox"])
                annotation["id"] += boxes
                annotation["image_id"] += first
                annotation["segmentation"] = [_random_polygon(rng, annotation["bbox"])]
            boxes += len(made["annotations"])
            file.write(b", " * (first > 0) + encode(made["annotations"])[1:-1])
            for image in made["images"]:
                image["id"] += first
                name = f"train2017/{image['id']:012}.jpg"
                images.append({**image, "coco_url": f"http://images.cocodataset.org/{name}"})
        end = encode({"images": images, "categories": made["categories"]})
        file.write(b"], " + end[1:])


def _inside(x: float, y: float, width: float, height: float) -> list[float]:
    """The box, or what is in the picture of one that reaches out, 1 pixel at least."""
    x, y = min(x, WIDTH - 1), min(y, HEIGHT - 1)
    return [x, y, min(width, WIDTH - x), min(height, HEIGHT - y)]


def _random_polygon(rng: np.random.Generator, box: Sequence[float]) -> list[float]:
    points = rng.random((3 + rng.poisson(25), 2)) * box[2:] + box[:2]
    return points.round(2).ravel().tolist()


def random_detections(
    rng: np.random.Generator, annotations: Sequence[dict], negatives: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image's detections, at least 300: categories (n,) int64, boxes (n, 4) float64 XYWH and
    scores (n,) float64.

    Three lie near each annotation. The others lie anywhere: half of them have a category that is
    annotated or known to be absent in the image, half have any category. Scores are multiples of
    2**-16, so that some are equal.
    """
    positive = np.array([a["category_id"] for a in annotations])
    near = np.repeat([a["bbox"] for a in annotations], 3, axis=0)
    near += rng.normal(0, 0.1, near.shape) * near[:, [2, 3, 2, 3]]
    far = random_boxes(rng, max(0, DETECTIONS - len(near)))
    listed = rng.choice([*positive, *negatives], len(far))
    anywhere = rng.integers(1, CATEGORIES + 1, len(far))
    labels = np.concatenate(
        [np.repeat(positive, 3), np.where(rng.random(len(far)) < 0.5, listed, anywhere)]
    )
    boxes = np.concatenate([near, far])
    return labels, boxes, rng.integers(1, 2**16, len(boxes)) / 2**16


def make_results(ground_truth: LVIS, seed: int) -> list[dict]:
    """Detections in LVIS's results format, those of :func:`random_detections`."""
    rng = np.random.default_rng(seed + 1)
    results = []
    for image in ground_truth.imgs.values():
        annotations = ground_truth.img_ann_map[image["id"]]
        found = random_detections(rng, annotations, image["neg_category_ids"])
        results += [
            {"image_id": image["id"], "category_id": label, "bbox": box, "score": score}
            for label, box, score in zip(*(array.tolist() for array in found), strict=True)
        ]
    return results
