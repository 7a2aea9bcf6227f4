"""A random job for an LVIS evaluator, with the proportions of LVIS val.

There are 1203 categories. An image has 12.4 boxes of 3.4 categories, ten categories that are known
to be absent, and 300 detections.
"""

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


def make_results(ground_truth: LVIS, seed: int) -> list[dict]:
    """Detections in LVIS's results format.

    Three lie near each annotation. The others lie anywhere: half of them have a category that is
    annotated or known to be absent in the image, half have any category. Scores are multiples of
    2**-16, so that some are equal.
    """
    rng = np.random.default_rng(seed + 1)
    results = []
    for image in ground_truth.imgs.values():
        annotations = ground_truth.img_ann_map[image["id"]]
        positive = np.array([a["category_id"] for a in annotations])
        near = np.repeat([a["bbox"] for a in annotations], 3, axis=0)
        near += rng.normal(0, 0.1, near.shape) * near[:, [2, 3, 2, 3]]
        far = random_boxes(rng, max(0, DETECTIONS - len(near)))
        listed = rng.choice([*positive, *image["neg_category_ids"]], len(far))
        anywhere = rng.integers(1, CATEGORIES + 1, len(far))
        labels = np.concatenate(
            [np.repeat(positive, 3), np.where(rng.random(len(far)) < 0.5, listed, anywhere)]
        )
        boxes = np.concatenate([near, far])
        scores = rng.integers(1, 2**16, len(boxes)) / 2**16
        results += [
            {"image_id": image["id"], "category_id": label, "bbox": box, "score": score}
            for label, box, score in zip(
                labels.tolist(), boxes.tolist(), scores.tolist(), strict=True
            )
        ]
    return results
