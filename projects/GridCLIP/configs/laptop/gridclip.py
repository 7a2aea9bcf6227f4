"""GridCLIP on the laptop world: 1,000 steps of 16 pictures, minutes on two cores."""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CosineParamScheduler

from gridclip.data import federated_weights

from ..common.gridclip_r50 import model
from ..common.shapes import clip, data, dataloader, shapes
from ..common.train import lr_multiplier, optimizer, train

# The sizes are those of laptop_world/small_clip.py.
model.backbone.bottom_up.update(layers=(2, 2, 2, 1), width=16, embed_dim=64, input_resolution=64)
model.classifier.embed_dim = 64
model.backbone.update(out_channels=64, top_block=None)
model.head.update(num_levels=3, conv_dims=[64, 64, 64, 64])
model.dense_scores.scale = 15.0  # the factor on the small CLIP's own cosines is 37
model.head_in_features = ["p3", "p4", "p5"]
# FCOS's smallest objects, those of P3, would fill half of such a picture. So the anchors are half
# as large, and the sampling radius, counted in anchors, is twice as large.
model.update(anchor_scale=0.5, center_sampling_radius=3.0)
# Chosen on the development world, like the weight of image-level alignment.
model.backbone.bottom_up.freeze_at = 0
model.box_loss_weight = 4.0
model.assignment.iou_power = 4.0
model.image_alignment.weight = 4.0
model.num_sampled_classes = 96  # all base categories

model.federated_weights = L(federated_weights)(data="${data.train}")
model.seed = "${train.seed}"

optimizer.lr = 1.5e-3
# Image-level alignment holds the backbone in CLIP's space, so it may learn as fast as the rest.
optimizer.params.lr_factor_func.factor = 1.0
train.update(
    max_iter=1_000,
    eval_period=0,
    device="cpu",
    output_dir="output/laptop/gridclip",
)
train.checkpointer.period = 250
train.amp.enabled = False
lr_multiplier.scheduler = L(CosineParamScheduler)(start_value=1.0, end_value=0.01)
lr_multiplier.warmup_length = 50 / 1_000
