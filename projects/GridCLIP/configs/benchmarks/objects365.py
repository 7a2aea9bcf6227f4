"""A detector trained on LVIS, evaluated on Objects365 v2 val: 80,000 images, 365 names."""

import os

from .coco import clip, data, dataloader, lr_multiplier, model, optimizer, train

_datasets = os.getenv("DETECTRON2_DATASETS", "datasets")

data.val.update(
    dataset=None,
    json=os.path.join(_datasets, "objects365/annotations", "zhiyuan_objv2_val.json"),
    images=os.path.join(_datasets, "objects365/val"),
)
clip.names = "objects365"
clip.text_embeddings = os.path.join(_datasets, "gridclip", "objects365_text_RN50.safetensors")
train.output_dir = "output/benchmarks/objects365"
