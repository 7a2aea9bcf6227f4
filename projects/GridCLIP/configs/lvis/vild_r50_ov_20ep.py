"""Like ViLD, with the schedule of DetPro's 20 epochs.

20 x 100,170 images in batches of 16 are 125,213 steps, here 125,000. DetPro's epochs are longer:
mmdetection also counts the repetitions of repeat factor sampling.

Learning rate, decay, the one drop after 16 of 20 epochs, sizes, repeat factor and 2 images per GPU
are those of DetPro's configuration. It does not name the number of GPUs, here 8, or the warm-up,
here mmdetection's default of 500 steps: both are unverified. DetPro's proposals are from another
RPN, and its backbone was trained on ImageNet or by SoCo.
"""

from ..common.lvis import dataloader as _lvis
from .vild_r50_ov import clip, data, dataloader, lr_multiplier, model, optimizer, train

dataloader.train.mapper.augmentations = _lvis.train.mapper.augmentations
dataloader.train.update(total_batch_size=16, repeat_threshold=0.001)
dataloader.test.mapper.augmentations = _lvis.test.mapper.augmentations

optimizer.update(lr=0.02, weight_decay=2.5e-5)
lr_multiplier.scheduler.update(values=[1.0, 0.1], milestones=[16, 20])
lr_multiplier.update(warmup_factor=0.001, warmup_length=500 / 125_000)
train.update(max_iter=125_000, output_dir="output/vild_r50_ov_20ep")
