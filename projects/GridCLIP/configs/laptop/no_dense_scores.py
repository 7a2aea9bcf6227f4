"""The weights of gridclip, evaluated without dense scores: the grid embeddings alone."""

from .gridclip import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

model.dense_scores = None
train.output_dir = "output/laptop/no_dense_scores"
