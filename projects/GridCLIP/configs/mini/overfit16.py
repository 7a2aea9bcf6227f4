"""Overfits 16 photographs with a narrow backbone from scratch, to see that learning works at all.

The text embeddings are Detic's table for LVIS (CLIP ViT-B/32); import it first:

    scripts/precompute_text_embeddings.py --names lvis_v1 --clip-model-id ViT-B/32 \\
        --from-npy lvis_v1_clip_a+cname.npy --output output/lvis_v1_text_ViT-B-32.safetensors

There is no image-level alignment, which would need that model's image encoder.
"""

from ..lvis.gridclip_r50_ov_1x import clip, data, dataloader, lr_multiplier, model, optimizer, train

# These embeddings are of another CLIP model than any that is used: there is nothing to compare.
clip.update(weights=None, names=None)
clip.text_embeddings = "output/lvis_v1_text_ViT-B-32.safetensors"
clip.image_embeddings = None

model.backbone.bottom_up.update(layers=(1, 1, 1, 1), width=16, freeze_at=0, freeze_norm=False)
model.backbone.out_channels = 64
model.head.conv_dims = [64, 64]
model.classifier.embed_dim = 512
model.image_alignment = None
model.dense_scores = None

dataloader.train.update(
    total_batch_size=4,
    repeat_threshold=0.0,
    num_workers=0,
)
dataloader.train.mapper.augmentations = dataloader.train.mapper.augmentations[:1]
dataloader.train.mapper.augmentations[0].short_edge_length = (256,)
dataloader.train.dataset.count = 16
data.val = data.train
dataloader.test.dataset.update(filter_empty=True, count=16)
dataloader.test.num_workers = 0
dataloader.test.mapper.augmentations[0].short_edge_length = 256

optimizer.lr = 2e-3
optimizer.params.lr_factor_func.factor = 1.0
train.update(
    init_checkpoint="",
    max_iter=800,
    eval_period=0,
    device="cpu",
    output_dir="output/overfit16",
)
train.amp.enabled = False
lr_multiplier.warmup_length = 50 / 800
