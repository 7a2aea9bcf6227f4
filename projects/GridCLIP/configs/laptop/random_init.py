"""GridCLIP whose backbone starts from random weights instead of CLIP's."""

from .gridclip import clip, dataloader, lr_multiplier, model, optimizer, shapes, train

model.backbone.bottom_up.update(freeze_at=0, freeze_norm=False)
optimizer.params.lr_factor_func.factor = 1.0
train.update(init_checkpoint="", output_dir="output/laptop/random_init")
