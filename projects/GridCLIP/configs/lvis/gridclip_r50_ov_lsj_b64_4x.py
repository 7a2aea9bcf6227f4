"""Large-scale jitter in batches of 64: 90,000 steps are 5.76M images, 57.5 passes.

Batch, steps, rate and warm-up are Detic's for LVIS; drops and the backbone's rate are those of 1x.
"""

from .gridclip_r50_ov_lsj_2x import clip, data, dataloader, lr_multiplier, model, optimizer, train

dataloader.train.total_batch_size = 64
optimizer.lr = 2e-4
lr_multiplier.warmup_length = 10_000 / 90_000
train.update(max_iter=90_000, output_dir="output/gridclip_r50_ov_lsj_b64_4x")
