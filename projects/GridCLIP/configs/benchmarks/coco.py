"""A detector trained on LVIS, evaluated on COCO 2017 val with COCO's 80 names."""

import os

from ..lvis.gridclip_r50_ov_1x import (
    clip,
    data,
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

_root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "gridclip")

data.val.update(dataset="coco_2017_val", novel=None)
clip.names = "coco"
clip.text_embeddings = os.path.join(_root, "coco_text_RN50.safetensors")
model.max_detections_per_image = 100
train.output_dir = "output/benchmarks/coco"
