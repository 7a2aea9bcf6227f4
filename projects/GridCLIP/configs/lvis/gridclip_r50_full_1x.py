"""Like 1x but fully supervised: rare categories are annotated too, so there are no novel ones."""

from .gridclip_r50_ov_1x import clip, data, dataloader, lr_multiplier, model, optimizer, train

data.novel = None
train.output_dir = "output/gridclip_r50_full_1x"
