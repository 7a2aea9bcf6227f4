"""ViLD-text on the laptop world: no distillation. Its region proposal network serves ViLD."""

from .vild import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

model.roi_heads.distillation_weight = 0.0
dataloader.train.mapper.embeddings = None
train.output_dir = "output/laptop/vild_text"
