"""As ViLD, with the schedule of DetPro's 20 epochs.

20 x 100,170 images in batches of 16 are 125,213 steps, here 125,000. An epoch of DetPro is longer:
mmdetection counts the repetitions of repeat factor sampling, too.

From DetPro's configuration are the learning rate, decay, the one drop after 16 of 20 epochs, sizes,
repeat factor and 2 images a GPU. Not in it, and unverified: 8 GPUs, and mmdetection's default of
500 steps of warm-up. Its proposals are of another RPN, and its backbone is ImageNet's or SoCo's.
"""

from ..common.lvis import dataloader as _lvis
from .vild_r50_ov import clip, dataloader, lr_multiplier, model, optimizer, train

dataloader.train.mapper.augmentations = _lvis.train.mapper.augmentations
dataloader.train.update(total_batch_size=16, repeat_threshold=0.001)
dataloader.test.mapper.augmentations = _lvis.test.mapper.augmentations

optimizer.update(lr=0.02, weight_decay=2.5e-5)
lr_multiplier.scheduler.update(values=[1.0, 0.1], milestones=[16, 20])
lr_multiplier.update(warmup_factor=0.001, warmup_length=500 / 125_000)
train.update(max_iter=125_000, output_dir="output/vild_r50_ov_20ep")
