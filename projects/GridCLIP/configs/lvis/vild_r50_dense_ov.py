"""The weights of vild_r50_ov, evaluated with dense scores, as GridCLIP is."""

from detectron2.config import LazyCall as L

from gridclip.vild import RegionScores

from .vild_r50_ov import clip, data, dataloader, lr_multiplier, model, optimizer, train

# 0.4 times CLIP's own factor of 100, as for GridCLIP.
model.dense_scores = L(RegionScores)(scale=40.0, weight=0.15, novel_weight=0.35)
train.output_dir = "output/vild_r50_dense_ov"
