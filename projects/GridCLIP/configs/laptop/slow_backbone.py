"""Without Image-level Alignment, the backbone at a tenth of the learning rate.

The other way to keep it near CLIP: let it learn less.
"""

from .no_image_alignment import clip, dataloader, lr_multiplier, model, optimizer, shapes, train

optimizer.params.lr_factor_func.factor = 0.1
train.output_dir = "output/laptop/slow_backbone"
