"""Like 2x with large-scale jitter: pictures are scaled by 0.1 to 2 and cut or padded to 1024 px.

Windows move with the picture; one of which less than half stays in it is left out.
"""

from ..common.lvis_vild import dataloader as _jittered
from .gridclip_r50_ov_2x import clip, data, dataloader, lr_multiplier, model, optimizer, train

for _part in ("train", "test"):
    dataloader[_part].mapper.augmentations = _jittered[_part].mapper.augmentations
train.output_dir = "output/gridclip_r50_ov_lsj_2x"
