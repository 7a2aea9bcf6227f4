"""ViLD-text overfits 16 photographs with a narrow backbone from scratch, to see that it learns.

Text embeddings are those of overfit16.py. There is no distillation, which would need that CLIP
model's image encoder.
"""

from ..lvis.vild_text_r50_ov import clip, model
from ..lvis.vild_text_r50_ov import dataloader as _vild
from .overfit16 import data, dataloader, lr_multiplier, optimizer, train

clip.update(weights=None, names=None)
clip.text_embeddings = "output/lvis_v1_text_ViT-B-32.safetensors"
clip.proposals = clip.region_embeddings = None

model.backbone.bottom_up.update(layers=(1, 1, 1, 1), width=16, freeze_at=0, freeze_norm=False)
model.backbone.out_channels = 64
model.proposal_generator.anchor_generator.sizes = [[16], [32], [64], [128], [256]]
model.proposal_generator.post_nms_topk = [300, 300]
model.roi_heads.box_head.update(conv_dims=[64], fc_dims=[256])
model.roi_heads.box_predictor.input_shape.channels = 256
model.roi_heads.batch_size_per_image = 128
model.classifier.embed_dim = 512

_augmentations = dataloader.train.mapper.augmentations
dataloader.train.mapper = _vild.train.mapper
dataloader.train.mapper.augmentations = _augmentations

train.output_dir = "output/vild_overfit16"
