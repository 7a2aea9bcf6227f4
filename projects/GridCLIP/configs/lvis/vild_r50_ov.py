"""ViLD R50, LVIS v1 open-vocabulary, with the official schedule.

180,000 steps of 256 images are 46.08M images: 460 passes over LVIS's 100,170 training images.

It takes three commands, the last of which also makes the region embeddings::

    projects/GridCLIP/train_net.py --config-file .../vild_text_r50_ov.py
    scripts/precompute.py proposals --config-file .../vild_text_r50_ov.py \\
        --weights output/vild_text_r50_ov/model_final.pth
    projects/GridCLIP/train_net.py --config-file .../vild_r50_ov.py

Batch, steps, learning rate and its drops, warm-up, decay, jitter and the weights of the losses are
those of the official configuration. The backbone is another (CLIP's RN50 with frozen batch norm),
and so is the teacher: CLIP's RN50 instead of ViT-B/32, as for GridCLIP. FPN and box head have group
norm instead of synchronised batch norm: without any, SGD diverges at this learning rate. There is
no mask branch; published AP was trained with one. ../common/vild_r50.py has further differences.
"""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params

from gridclip.data import novel_classes

from ..common.lvis_vild import clip, data, dataloader
from ..common.train import lr_multiplier, train
from ..common.vild_r50 import model

model.backbone.norm = "GN"
model.roi_heads.box_head.conv_norm = "GN"
model.classifier.novel_classes = L(novel_classes)(data="${data.train}")

# The official decay spares biases and norms.
optimizer = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(
        base_lr="${..lr}", weight_decay_norm=0.0, weight_decay_bias=0.0
    ),
    lr=0.32,
    momentum=0.9,
    weight_decay=4e-5,
)

# Drops at 162,000 and 171,000 steps.
lr_multiplier.scheduler.milestones = [162, 171, 180]
lr_multiplier.update(warmup_factor=0.01, warmup_length=1_000 / 180_000)

train.update(max_iter=180_000, clip_grad_norm=None, output_dir="output/vild_r50_ov")
