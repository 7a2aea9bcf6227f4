"""ViLD-ensemble: like ViLD, with a separate head for distillation."""

from .vild_r50_ov import clip, data, dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.image_head = "${.box_head}"
train.output_dir = "output/vild_ens_r50_ov"
