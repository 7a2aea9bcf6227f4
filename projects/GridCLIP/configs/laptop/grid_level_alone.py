"""Grid-level Alignment alone: the weights of slow_backbone, evaluated without dense scores."""

from .slow_backbone import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

model.dense_scores = None
train.output_dir = "output/laptop/grid_level_alone"
