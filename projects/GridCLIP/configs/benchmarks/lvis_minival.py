"""A detector trained on LVIS, evaluated on LVIS minival: the 4,809 images of LVIS val whose
photograph is in COCO's val2017.

    projects/GridCLIP/train_net.py --eval-only --config-file .../lvis_minival.py \\
        MODEL.WEIGHTS output/gridclip_r50_ov_1x/model_final.pth

The file lvis_v1_minival.json that others share has the same images: data.val.dataset=null
data.val.json=FILE data.val.images=$DETECTRON2_DATASETS/coco data.val.only=null.
"""

from ..lvis.gridclip_r50_ov_1x import (
    clip,
    data,
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

data.val.only = "val2017"
train.output_dir = "output/benchmarks/lvis_minival"
