"""A tiny ViLD run: only sizes, iterations and device differ.

ViLD needs proposals. They come from ViLD-text, which is this config with

    model.roi_heads.distillation_weight=0 dataloader.train.mapper.embeddings=null

and then ``scripts/precompute.py proposals --max-proposals 2``. It needs no weights of OpenAI's: it
runs on an archive of RN50's true sizes with random weights. clip.weights=clip://RN50 takes the real
ones.
"""

import benchmark.random_clip  # noqa: F401  random-clip://

from .vild_r50_ov import clip, data, dataloader, lr_multiplier, model, optimizer, train

clip.weights = "random-clip://RN50"
clip.templates = "single"
clip.text_embeddings = "${train.output_dir}/text_embeddings.safetensors"
clip.proposals = "${train.output_dir}/proposals"
clip.region_embeddings = "${train.output_dir}/region_embeddings"

model.proposal_generator.post_nms_topk = [50, 50]
model.roi_heads.batch_size_per_image = 32

dataloader.train.mapper.augmentations[0].update(target_height=160, target_width=160)
dataloader.train.mapper.augmentations[1].crop_size = (160, 160)
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = 0
dataloader.test.mapper.augmentations[0].update(short_edge_length=160, max_size=160)
dataloader.test.num_workers = 0

# The batch is one 128th, and so is the learning rate.
optimizer.lr = 0.0025
train.max_iter = 4
train.device = "cpu"
train.amp.enabled = False
train.log_period = 1
train.output_dir = "output/vild_r50_ov_smoke"
