"""Blood cells (BCCD), three categories, from random weights on two cores: docs/own-data.md.

There are no weights of CLIP in it, so a name's vector is random and there is nothing to align with:
this shows own data from end to end, and that the detector learns, not its open vocabulary.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from fvcore.common.param_scheduler import CosineParamScheduler

from .gridclip_r50 import clip, data, dataloader, lr_multiplier, model, optimizer, train

_root = "output/bccd"
data.train.update(json=f"{_root}/trainval.json", images="bccd/JPEGImages")
data.val.update(json=f"{_root}/test.json", images="bccd/JPEGImages")

clip.update(weights=None, image_embeddings=None)
model.update(image_alignment=None, dense_scores=None)

# Narrow, and one level: cells differ little in size.
model.backbone.bottom_up.update(layers=(1, 1, 1, 1), width=16, freeze_at=0, freeze_norm=False)
model.backbone.update(out_channels=64, top_block=None)
model.head_in_features = ["p3"]
model.head.update(num_levels=1, conv_dims=[64, 64])
model.classifier.embed_dim = 64
model.center_sampling_radius = 2.0

# A cell has no up or down. Sizes that vary gained 3 AP on the validation pictures over one size
# (4,000 steps, trained on BCCD's train, one seed).
dataloader.train.mapper.augmentations = [
    L(T.ResizeShortestEdge)(
        short_edge_length=(240, 264, 288, 312, 336), sample_style="choice", max_size=1333
    ),
    L(T.RandomFlip)(horizontal=True),
    L(T.RandomFlip)(horizontal=False, vertical=True),
]
dataloader.train.update(total_batch_size=4, num_workers=0)
dataloader.test.mapper.augmentations[0].short_edge_length = 288
dataloader.test.update(batch_size=8, num_workers=0)

optimizer.lr = 2e-3
optimizer.params.lr_factor_func.factor = 1.0
lr_multiplier.scheduler = L(CosineParamScheduler)(start_value=1.0, end_value=0.01)
train.update(
    init_checkpoint="",
    max_iter=5_500,
    eval_period=0,
    device="cpu",
    output_dir="output/bccd/gridclip",
)
train.amp.enabled = False
train.ema.update(enabled=True, decay=0.995)
