"""Pictures made for tests, and a root of data sets that holds them."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def random_image(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth random colours, so that no two parts look alike: (H, W, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC))


def make_lvis_root(root: Path, image_ids: Iterable[int]) -> Path:
    """A DETECTRON2_DATASETS root whose lvis_v1_train has small pictures and no objects."""
    images = []
    (root / "coco" / "train2017").mkdir(parents=True)
    (root / "lvis").mkdir()
    for image_id in image_ids:
        pixels = np.random.default_rng(image_id).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "coco" / "train2017" / f"{image_id:012}.jpg")
        url = f"http://images.cocodataset.org/train2017/{image_id:012}.jpg"
        images.append(dict(id=image_id, height=30, width=40, coco_url=url))
    annotations = dict(images=images, annotations=[], categories=[dict(id=1, name="cat")])
    (root / "lvis" / "lvis_v1_train.json").write_text(json.dumps(annotations))
    return root
