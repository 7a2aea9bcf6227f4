"""F-VLM on the laptop world: ViLD-text on a frozen trunk, with the scores of CLIP's own pool."""

from detectron2.config import LazyCall as L

from gridclip.vild import PooledRegionScores

from .vild_text import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

model.backbone.bottom_up.freeze_at = 5
# F-VLM's weights, and the small CLIP's own factor on cosines.
model.dense_scores = L(PooledRegionScores)(scale=37.0, weight=0.35, novel_weight=0.65)
train.output_dir = "output/laptop/fvlm"
