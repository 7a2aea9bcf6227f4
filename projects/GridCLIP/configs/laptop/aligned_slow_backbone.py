"""GridCLIP with a tenth of the learning rate for the backbone: held in CLIP's space twice over."""

from .gridclip import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

optimizer.params.lr_factor_func.factor = 0.1
train.output_dir = "output/laptop/aligned_slow_backbone"
