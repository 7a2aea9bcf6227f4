"""A small LVIS-format data set of drawn pictures, and a config that trains on it in seconds."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_lvis_json
from PIL import Image

from gridclip.data import register_base_split

CONFIGS = Path(__file__).parents[2] / "projects/GridCLIP/configs"
COLORS = {1: (220, 40, 40), 2: (40, 200, 60), 3: (50, 80, 230)}
NAMES = {1: "red thing", 2: "green thing", 3: "blue thing"}
SIZE = 96


def draw_world(folder: Path, count: int = 12) -> Path:
    """Write pictures of coloured boxes and their annotations; category 3 is rare."""
    rng = np.random.default_rng(0)
    (folder / "train2017").mkdir(parents=True)
    images, annotations = [], []
    for image_id in range(1, count + 1):
        canvas = rng.integers(90, 160, (SIZE, SIZE, 3), dtype=np.uint8)
        present = sorted({1 + image_id % 3, 1 + image_id % 2})
        for category in present:
            x, y = rng.integers(0, SIZE - 48, 2).tolist()
            w, h = rng.integers(24, 48, 2).tolist()
            canvas[y : y + h, x : x + w] = COLORS[category]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=category,
                    bbox=[x, y, w, h],
                    area=w * h,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )
            )
        Image.fromarray(canvas).save(folder / "train2017" / f"{image_id}.png")
        images.append(
            dict(
                id=image_id,
                width=SIZE,
                height=SIZE,
                coco_url=f"http://images.cocodataset.org/train2017/{image_id}.png",
                neg_category_ids=[c for c in COLORS if c not in present],
                not_exhaustive_category_ids=[],
            )
        )
    categories = [
        dict(id=i, name=name, synonyms=[name], frequency="r" if i == 3 else "f", image_count=count)
        for i, name in NAMES.items()
    ]
    path = folder / "annotations.json"
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return path


@pytest.fixture(scope="session")
def world(tmp_path_factory, tiny_clip):
    """Folder of the drawn data set, registered as world_train and world_base."""
    folder = tmp_path_factory.mktemp("world")
    register_world(folder, draw_world(folder))
    yield folder
    for name in ("world_train", "world_base"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def register_world(folder: Path, json_file: Path) -> None:
    # Without a name, load_lvis_json leaves the metadata alone.
    DatasetCatalog.register("world_train", lambda: load_lvis_json(str(json_file), f"{folder}/"))
    MetadataCatalog.get("world_train").set(
        json_file=str(json_file),
        thing_classes=list(NAMES.values()),
        class_image_count=[dict(id=i, image_count=8) for i in NAMES],
    )
    register_base_split("world_base", "world_train", [2])


@pytest.fixture
def world_config(world, tiny_clip, tmp_path):
    """Makes the production config at a very small size, on the drawn data set."""

    def make(**train):
        cfg = LazyConfig.load(str(CONFIGS / "lvis/gridclip_r50_ov_smoke.py"))
        return shrink(cfg, world, tiny_clip, tmp_path / "output", train)

    return make


def shrink(cfg, world: Path, clip_archive: Path, output_dir: Path, train: dict):
    json_file = str(world / "annotations.json")
    cfg.clip.update(weights=str(clip_archive), names=json_file, image_dataset="world_train")
    cfg.model.backbone.bottom_up.update(
        layers=[1, 1, 1, 1], width=8, embed_dim=32, input_resolution=64, freeze_at=0
    )
    cfg.model.backbone.out_channels = 64
    cfg.model.head.conv_dims = [64]
    cfg.model.classifier.embed_dim = 32
    cfg.dataloader.train.dataset.names = "world_base"
    cfg.dataloader.train.total_batch_size = 4
    cfg.dataloader.train.mapper.augmentations[0].short_edge_length = [96]
    cfg.dataloader.test.dataset.names = "world_train"
    cfg.dataloader.test.mapper.augmentations[0].short_edge_length = 96
    cfg.train.output_dir = str(output_dir)
    cfg.train.update(train)
    return cfg
