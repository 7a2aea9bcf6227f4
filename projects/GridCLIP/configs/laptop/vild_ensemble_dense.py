"""The weights of vild_ensemble, evaluated with dense scores, as GridCLIP is."""

from .vild_ensemble import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train
from .vild_text_dense import model as _dense

model.dense_scores = _dense.dense_scores
train.output_dir = "output/laptop/vild_ensemble_dense"
