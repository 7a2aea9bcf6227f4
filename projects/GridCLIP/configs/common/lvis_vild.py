"""LVIS v1, open-vocabulary, as for ViLD: pictures of 1024 px, with scale jitter from 0.1 to 2."""

import os

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from gridclip.data import ViLDDatasetMapper

from .lvis import clip as _clip
from .lvis import data, dataloader

_root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "gridclip")

# scripts/precompute.py proposals makes the proposals, train_net.py the region embeddings.
clip = dict(
    weights=_clip.weights,
    names=_clip.names,
    templates=_clip.templates,
    text_embeddings=_clip.text_embeddings,
    proposals=os.path.join(_root, "lvis_v1_train_proposals_vild_text_r50"),
    region_embeddings=os.path.join(_root, "lvis_v1_train_regions_RN50"),
)

dataloader.train.mapper = L(ViLDDatasetMapper)(
    is_train=True,
    augmentations=[
        L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=1024, target_width=1024),
        L(T.FixedSizeCrop)(crop_size=(1024, 1024)),
        L(T.RandomFlip)(horizontal=True),
    ],
    embeddings="${clip.region_embeddings}",
)
# The official code draws every image equally often.
dataloader.train.update(total_batch_size=256, repeat_threshold=0.0)
dataloader.test.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=1024, max_size=1024)
]
