"""The weights of vild, evaluated with dense scores, as GridCLIP is."""

from .vild import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train
from .vild_text_dense import model as _dense

model.dense_scores = _dense.dense_scores
train.output_dir = "output/laptop/vild_dense"
