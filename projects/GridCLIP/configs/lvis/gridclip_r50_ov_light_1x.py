"""GridCLIP R50 1x with towers of two convolutions instead of four: faster, see the results."""

from .gridclip_r50_ov_1x import clip, data, dataloader, lr_multiplier, model, optimizer, train

model.head.conv_dims = [256, 256]
train.output_dir = "output/gridclip_r50_ov_light_1x"
