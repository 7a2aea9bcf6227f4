"""ViLD on the laptop world: 500 steps of 16 pictures, which take longer than GridCLIP's 1,000.

ViLD is distilled on 32 proposals a picture, which come from ViLD-text's region proposal network::

    projects/GridCLIP/train_net.py --config-file .../vild_text.py
    scripts/precompute.py proposals --config-file .../vild_text.py --max-proposals 32 \\
        --weights output/laptop/vild_text/model_final.pth
    projects/GridCLIP/train_net.py --config-file .../vild.py
"""

import os

from detectron2.config import LazyCall as L

from gridclip.data import ViLDDatasetMapper, novel_classes

from ..common.vild_r50 import model
from .gridclip import clip, data, dataloader, lr_multiplier, optimizer, shapes, train
from .gridclip import model as _gridclip

_root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "shapes")
clip.update(
    windows=None,
    image_embeddings=None,
    proposals=os.path.join(_root, "shapes_${shapes.world}_proposals"),
    region_embeddings=os.path.join(_root, "shapes_${shapes.world}_regions"),
)

model.backbone.bottom_up = _gridclip.backbone.bottom_up
model.backbone.update(out_channels=64, norm="GN")
model.proposal_generator.anchor_generator.sizes = [[8], [16], [32], [64], [96]]
model.proposal_generator.update(pre_nms_topk=[300, 300], post_nms_topk=[300, 300])
# In so few steps the boxes lag behind the scores: only about 4 of the RPN's 256 sampled anchors are
# positive.
model.proposal_generator.loss_weight = dict(loss_rpn_loc=10.0)
# Tried: 0.02, 0.1 and the official 0.5. In so few steps the smallest costs the least AP, and the
# others give the ensemble no higher APr.
model.roi_heads.update(batch_size_per_image=64, distillation_weight=0.02)
model.roi_heads.box_head.update(conv_dims=[64, 64, 64, 64], fc_dims=[256], conv_norm="GN")
model.roi_heads.box_predictor.input_shape.channels = 256
model.roi_heads.box_predictor.loss_weight = dict(loss_box_reg=4.0)
model.classifier.update(
    embed_dim=_gridclip.classifier.embed_dim,
    temperature=37.0,  # the small CLIP's own; the official 100 is that of OpenAI's CLIP
    novel_classes=L(novel_classes)(data="${data.train}"),
)

dataloader.train.mapper = L(ViLDDatasetMapper)(
    is_train=True,
    augmentations=dataloader.train.mapper.augmentations,
    embeddings="${clip.region_embeddings}",
)
# No image-level alignment holds the backbone in CLIP's space, so it learns slowly.
optimizer.params.lr_factor_func.factor = 0.1
train.update(max_iter=500, output_dir="output/laptop/vild")
lr_multiplier.warmup_length = 50 / 500
