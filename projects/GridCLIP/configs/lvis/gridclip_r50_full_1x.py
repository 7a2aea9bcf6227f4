"""As 1x, fully supervised: the rare categories are annotated too, none is novel."""

from .gridclip_r50_ov_1x import clip, dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "lvis_v1_train"
dataloader.evaluator.novel_classes = None
train.output_dir = "output/gridclip_r50_full_1x"
