"""The plain reconstruction of the paper's detector: FCOS's assignment and box deltas."""

from detectron2.config import LazyCall as L

from gridclip.modeling import FCOSAssignment

from .no_distribution import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

model.update(assignment=L(FCOSAssignment)(), box_loss_weight=1.0)
model.head.box_bias = 0.0
train.output_dir = "output/laptop/fcos_assignment"
