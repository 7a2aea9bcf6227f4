"""GridCLIP whose backbone starts from random weights instead of CLIP's."""

from .gridclip import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

model.backbone.bottom_up.freeze_norm = False
model.dense_scores = None  # this backbone does not map into CLIP's space
train.update(init_checkpoint="", output_dir="output/laptop/random_init")
