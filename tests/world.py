"""A small LVIS-format data set of drawn pictures, and the production config made tiny for it.

Also imported by config files that tests give to ``train_net.py``.
"""

import json
from pathlib import Path

import numpy as np
import torch
from detectron2.config import LazyConfig, instantiate
from PIL import Image

from box_sizes import spread_boxes
from gridclip.engine import GridCLIPCheckpointer
from gridclip.engine.prepare import prepare_text_embeddings
from gridclip.engine.train import build_model

CONFIGS = Path(__file__).parents[1] / "projects/GridCLIP/configs/lvis"
COLORS = {1: (220, 40, 40), 2: (40, 200, 60), 3: (50, 80, 230)}
NAMES = {1: "red thing", 2: "green thing", 3: "blue thing"}
SIZE = 96
TINY_BACKBONE = dict(layers=[1, 1, 1, 1], width=8, embed_dim=32, input_resolution=64, freeze_at=0)


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


def tiny_config(world: Path, clip_archive: Path, output_dir: Path, **train):
    """The smoke config with a tiny model on the drawn world; ``train`` goes to cfg.train."""
    cfg = _on_world("gridclip_r50_ov_smoke", world, clip_archive, output_dir, train)
    cfg.model.head.conv_dims = [64]
    cfg.dataloader.train.mapper.augmentations[0].short_edge_length = [SIZE]
    cfg.dataloader.test.mapper.augmentations[0].short_edge_length = SIZE
    return cfg


def as_coco(world: Path, json_file: Path, **changes) -> Path:
    """The drawn world as most tools export it: ids 3, 10 and 17, boxes only."""
    dataset = json.loads((world / "annotations.json").read_text())
    ids = {1: 3, 2: 10, 3: 17}
    plain = {
        "images": [
            {"id": i["id"], "file_name": f"{i['id']}.png", "width": SIZE, "height": SIZE}
            for i in dataset["images"]
        ],
        "categories": [{"id": ids[c["id"]], "name": c["name"]} for c in dataset["categories"]],
        "annotations": [
            {"image_id": a["image_id"], "category_id": ids[a["category_id"]], "bbox": a["bbox"]}
            for a in dataset["annotations"]
        ],
    }
    json_file.write_text(json.dumps(plain | changes))
    return json_file


def own_data_config(world: Path, json_file: Path, clip_archive: Path, output_dir: Path, **train):
    """configs/custom/gridclip_r50.py with a tiny model, on a CPU; ``json_file`` is of the world."""
    cfg = LazyConfig.load(str(CONFIGS.parent / "custom/gridclip_r50.py"))
    cfg.model.backbone.bottom_up.update(**TINY_BACKBONE)
    cfg.model.backbone.out_channels = 64
    cfg.model.head.conv_dims = [64]
    cfg.model.classifier.embed_dim = 32
    cfg.clip.update(weights=str(clip_archive), windows="whole", templates="single")
    for part in (cfg.data.train, cfg.data.val):
        part.update(json=str(json_file), images=str(world / "train2017"))
    cfg.dataloader.train.mapper.augmentations[0].short_edge_length = [SIZE]
    cfg.dataloader.test.mapper.augmentations[0].short_edge_length = SIZE
    cfg.dataloader.train.num_workers = cfg.dataloader.test.num_workers = 0
    cfg.train.update(max_iter=2, device="cpu", output_dir=str(output_dir))
    cfg.train.amp.enabled = False
    cfg.train.update(train)
    return cfg


def tiny_vild_config(variant: str, world: Path, clip_archive: Path, output_dir: Path, **train):
    """As :func:`tiny_config` of ViLD's smoke config; variant: "text", "vild", "ensemble" or
    "fvlm".

    Proposals, text and region embeddings lie beside the output folder.
    """
    cfg = _on_world("vild_r50_ov_smoke", world, clip_archive, output_dir, train)
    beside = output_dir.parent
    cfg.clip.text_embeddings = str(beside / "text.safetensors")
    cfg.clip.proposals = str(beside / "proposals")
    cfg.clip.region_embeddings = str(beside / "regions")
    cfg.model.roi_heads.box_head.update(conv_dims=[32], fc_dims=[64])
    cfg.model.roi_heads.box_predictor.input_shape.channels = 64
    cfg.model.proposal_generator.anchor_generator.sizes = [[8], [16], [24], [32], [48]]
    cfg.dataloader.train.mapper.augmentations[0].update(target_height=SIZE, target_width=SIZE)
    cfg.dataloader.train.mapper.augmentations[1].crop_size = [SIZE, SIZE]
    cfg.dataloader.test.mapper.augmentations[0].update(short_edge_length=SIZE, max_size=SIZE)
    if variant == "fvlm":
        fvlm = LazyConfig.load(str(CONFIGS / "fvlm_r50_ov.py")).model
        cfg.model.dense_scores = fvlm.dense_scores
        cfg.model.backbone.bottom_up.freeze_at = fvlm.backbone.bottom_up.freeze_at
    if variant in ("text", "fvlm"):
        cfg.model.roi_heads.distillation_weight = 0.0
        cfg.dataloader.train.mapper.embeddings = None
    elif variant == "ensemble":
        cfg.model.roi_heads.image_head = "${.box_head}"
    return cfg


def save_untrained_vild(variant: str, world: Path, clip_archive: Path, folder: Path) -> Path:
    """Writes config.yaml and detector.pth, as a training would leave them; returns the folder."""
    cfg = tiny_vild_config(variant, world, clip_archive, folder / "output")
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    prepare_text_embeddings(cfg, instantiate(cfg.data.train))
    torch.manual_seed(0)
    GridCLIPCheckpointer(build_model(cfg), str(folder)).save("detector")
    return folder


def save_untrained_gridclip(world: Path, clip_archive: Path, folder: Path) -> Path:
    """As :func:`save_untrained_vild`, with boxes of some size."""
    cfg = tiny_config(world, clip_archive, folder / "output")
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    prepare_text_embeddings(cfg, instantiate(cfg.data.train))
    cfg.model.federated_weights = None
    torch.manual_seed(0)
    model = build_model(cfg)
    checkpointer = GridCLIPCheckpointer(model, str(folder))
    checkpointer.load(str(clip_archive))
    torch.nn.init.normal_(model.head.grid_embedding.weight)
    spread_boxes(model.head)
    checkpointer.save("detector")
    return folder


def _on_world(name: str, world: Path, clip_archive: Path, output_dir: Path, train: dict):
    cfg = LazyConfig.load(str(CONFIGS / f"{name}.py"))
    cfg.clip.update(weights=str(clip_archive), names=None)
    for part in (cfg.data.train, cfg.data.val):
        part.update(dataset=None, json=str(world / "annotations.json"), images=str(world))
    cfg.model.backbone.bottom_up.update(**TINY_BACKBONE)
    cfg.model.backbone.out_channels = 64
    cfg.model.classifier.embed_dim = 32
    cfg.dataloader.train.total_batch_size = 4
    cfg.train.output_dir = str(output_dir)
    cfg.train.update(train)
    return cfg
