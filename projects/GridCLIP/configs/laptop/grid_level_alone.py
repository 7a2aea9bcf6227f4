"""Grid-level Alignment and nothing else: slow_backbone's weights without the dense scores."""

from .slow_backbone import clip, dataloader, lr_multiplier, model, optimizer, shapes, train

model.dense_scores = None
train.output_dir = "output/laptop/grid_level_alone"
