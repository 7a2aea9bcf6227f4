"""ViLD-ensemble on the laptop world: distillation has a head of its own."""

from .vild import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

model.roi_heads.image_head = "${.box_head}"
train.output_dir = "output/laptop/vild_ensemble"
