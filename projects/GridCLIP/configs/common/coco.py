"""COCO 2017 with 48 base and 17 novel categories: the split of Bansal et al., "Zero-Shot Object
Detection" (2018), as OVR-CNN, RegionCLIP and Detic use it.

The other 15 categories are left out, in training and in evaluation. The evaluation is generalised:
the vocabulary is all 65. Only pictures with a box of one of these count, as in OVR-CNN's files.
There a box around a crowd is enough; here it is not.
"""

import os

from detectron2.config import LazyCall as L

from gridclip.data import open_dataset

from .lvis import clip, dataloader

_root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "gridclip")

data = dict(
    novel=[
        *("airplane", "bus", "cat", "dog", "cow", "elephant", "umbrella", "tie", "snowboard"),
        *("skateboard", "cup", "knife", "cake", "couch", "keyboard", "sink", "scissors"),
    ],
    leave_out=[
        *("traffic light", "fire hydrant", "stop sign", "parking meter", "sports ball"),
        *("baseball bat", "baseball glove", "tennis racket", "wine glass", "hot dog"),
        *("potted plant", "dining table", "cell phone", "teddy bear", "hair drier"),
    ],
)
for _part in ("train", "val"):
    data[_part] = L(open_dataset)(
        dataset=f"coco_2017_{_part}", novel="${data.novel}", leave_out="${data.leave_out}"
    )

clip.update(
    names=None,  # those of the data
    text_embeddings=os.path.join(_root, "coco_65_text_RN50.safetensors"),
    image_embeddings=os.path.join(_root, "coco_2017_train_images_RN50_${clip.windows}"),
)

# COCO's categories are frequent enough: every picture is drawn equally often.
dataloader.train.repeat_threshold = 0.0
dataloader.test.dataset.filter_empty = True
