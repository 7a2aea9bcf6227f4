"""GridCLIP whose head predicts the box deltas themselves."""

from gridclip.modeling import GridHead

from .gridclip import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

model.head._target_ = GridHead
model.head.box_bias = 4.0
train.output_dir = "output/laptop/no_distribution"
