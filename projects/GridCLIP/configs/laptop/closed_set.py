"""GridCLIP without Grid-level Alignment: learned category vectors instead of text embeddings."""

from .gridclip import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

model.dense_scores = None
model.classifier._target_ = "gridclip.modeling.ClosedSetClassifier"
train.output_dir = "output/laptop/closed_set"
