"""GridCLIP trained four times as long: 4,000 steps."""

from .gridclip import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

train.update(max_iter=4_000, output_dir="output/laptop/gridclip_4000")
lr_multiplier.warmup_length = 50 / 4_000
