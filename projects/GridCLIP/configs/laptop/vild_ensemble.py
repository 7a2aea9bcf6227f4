"""ViLD-ensemble on the laptop world: a head of its own for distillation."""

from .vild import clip, dataloader, lr_multiplier, model, optimizer, shapes, train

model.roi_heads.image_head = "${.box_head}"
train.output_dir = "output/laptop/vild_ensemble"
