"""Like the open-vocabulary run but fully supervised: all 80 categories and all of COCO's val."""

import os

from .gridclip_r50_ov import clip, data, dataloader, lr_multiplier, model, optimizer, train

_root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "gridclip")

data.update(novel=None, leave_out=[])
clip.names = "coco"
clip.text_embeddings = os.path.join(_root, "coco_text_RN50.safetensors")
dataloader.test.dataset.filter_empty = False
train.output_dir = "output/coco_gridclip_r50_full"
