"""Image-level Alignment in the paper's words: one embedding of the whole picture."""

from .gridclip import clip, dataloader, lr_multiplier, model, optimizer, shapes, train

clip.windows = "whole"
model.image_alignment.update(loss="cosine", weight=1.0)
train.output_dir = "output/laptop/whole_image_alignment"
