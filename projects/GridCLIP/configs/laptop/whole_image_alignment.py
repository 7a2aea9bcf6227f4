"""Image-level Alignment in the paper's words: the student's image embedding to CLIP's own."""

from .gridclip import clip, dataloader, lr_multiplier, model, optimizer, shapes, train

clip.windows = "whole"
model.image_alignment._target_ = "gridclip.modeling.BackboneImageAlignment"
train.output_dir = "output/laptop/whole_image_alignment"
