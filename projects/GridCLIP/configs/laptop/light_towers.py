"""GridCLIP with towers of two convolutions instead of four."""

from .gridclip import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

model.head.conv_dims = [64, 64]
train.output_dir = "output/laptop/light_towers"
