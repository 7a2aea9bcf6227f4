"""Image-level Alignment in the paper's words: the student's image embedding to CLIP's own."""

from detectron2.config import LazyCall as L

from gridclip.modeling import BackboneImageAlignment

from .gridclip import clip, dataloader, lr_multiplier, model, optimizer, shapes, train

clip.windows = "whole"
model.image_alignment = L(BackboneImageAlignment)(loss="cosine", weight=2.0)
train.output_dir = "output/laptop/whole_image_alignment"
