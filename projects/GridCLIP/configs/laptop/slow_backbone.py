"""GridCLIP without Image-level Alignment, with a tenth of the learning rate for the backbone.

A low learning rate is another way to keep the backbone near CLIP.
"""

from .no_image_alignment import (
    clip,
    data,
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    shapes,
    train,
)

optimizer.params.lr_factor_func.factor = 0.1
train.output_dir = "output/laptop/slow_backbone"
