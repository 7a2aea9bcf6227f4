"""Image-level Alignment on the whole picture instead of nine tiles.

The student's image embedding, by CLIP's own attention pool, is aligned with the frozen encoder's.
"""

from .gridclip import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

clip.windows = "whole"
model.image_alignment._target_ = "gridclip.modeling.BackboneImageAlignment"
train.output_dir = "output/laptop/whole_image_alignment"
