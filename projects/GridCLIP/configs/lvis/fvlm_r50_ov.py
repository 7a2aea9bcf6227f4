"""F-VLM R50 (arXiv 2209.15639): ViLD-text's detector on CLIP's frozen trunk, and CLIP's own scores.

Weights and temperature of the scores are those of the paper, the schedule is ViLD's.
"""

from detectron2.config import LazyCall as L

from gridclip.vild import PooledRegionScores

from .vild_text_r50_ov import clip, data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.freeze_at = 5
model.dense_scores = L(PooledRegionScores)(scale=100.0, weight=0.35, novel_weight=0.65)
train.output_dir = "output/fvlm_r50_ov"
