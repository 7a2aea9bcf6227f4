"""The weights of vild_text, evaluated with dense scores, as GridCLIP is."""

from detectron2.config import LazyCall as L

from gridclip.vild import RegionScores

from .vild_text import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

model.dense_scores = L(RegionScores)(scale=15.0, weight=0.15, novel_weight=0.35)
train.output_dir = "output/laptop/vild_text_dense"
