"""A tiny open-vocabulary 1x run: other sizes, iterations, windows and device.

It needs no weights of OpenAI's: it runs on an archive of RN50's true sizes with random weights.
clip.weights=clip://RN50 takes the real ones.
"""

import benchmark.random_clip  # noqa: F401  random-clip://

from .gridclip_r50_ov_1x import clip, data, dataloader, lr_multiplier, model, optimizer, train

clip.weights = "random-clip://RN50"
clip.templates = "single"
clip.windows = "whole"  # one pass of the teacher a picture instead of nine
clip.text_embeddings = "${train.output_dir}/text_embeddings.safetensors"
clip.image_embeddings = "${train.output_dir}/image_embeddings"

dataloader.train.mapper.augmentations[0].short_edge_length = (160,)
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = 0
dataloader.test.mapper.augmentations[0].short_edge_length = 160
dataloader.test.num_workers = 0

train.max_iter = 4
train.device = "cpu"
train.amp.enabled = False
train.log_period = 1
train.output_dir = "output/gridclip_r50_ov_smoke"
