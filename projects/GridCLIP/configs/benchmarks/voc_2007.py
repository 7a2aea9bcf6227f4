"""A detector trained on LVIS, evaluated on Pascal VOC 2007 test by COCO's metrics.

AP50 is close to VOC's own metric and not equal to it: detectron2's reader does not say which
objects VOC calls difficult, so here they count like others. VOC's own evaluation ignores them.
"""

import os

from .coco import clip, data, dataloader, lr_multiplier, model, optimizer, train

_root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "gridclip")

data.val.dataset = "voc_2007_test"
clip.names = "voc"
clip.text_embeddings = os.path.join(_root, "voc_text_RN50.safetensors")
train.output_dir = "output/benchmarks/voc_2007"
