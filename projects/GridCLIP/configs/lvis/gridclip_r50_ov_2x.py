"""Like 1x but twice as long: 180,000 steps of 16 images are 2.88M images, 28.8 passes."""

from .gridclip_r50_ov_1x import clip, data, dataloader, lr_multiplier, model, optimizer, train

train.max_iter = 180_000
lr_multiplier.warmup_length = 5_000 / 180_000
train.output_dir = "output/gridclip_r50_ov_2x"
