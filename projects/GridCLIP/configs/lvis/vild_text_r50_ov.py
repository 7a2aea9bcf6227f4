"""ViLD-text: ViLD without distillation. Its RPN, trained on base categories, makes the proposals
for the other variants."""

from .vild_r50_ov import clip, data, dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.distillation_weight = 0.0
dataloader.train.mapper.embeddings = None
train.output_dir = "output/vild_text_r50_ov"
