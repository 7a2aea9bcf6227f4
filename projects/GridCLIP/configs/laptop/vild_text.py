"""ViLD-text on the laptop world: no distillation. Its RPN makes ViLD's proposals."""

from .vild import clip, dataloader, lr_multiplier, model, optimizer, shapes, train

model.roi_heads.distillation_weight = 0.0
dataloader.train.mapper.embeddings = None
train.output_dir = "output/laptop/vild_text"
