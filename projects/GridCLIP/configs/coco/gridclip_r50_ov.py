"""GridCLIP R50, COCO open-vocabulary (48 base and 17 novel categories), 1x.

90,000 steps of 16 images are detectron2's 1x, which Detic and RegionCLIP train this split by, too.
These 1.44M images are as many as in LVIS's 1x, so batch, rate and drops are the same: 13.4 passes
over the 107,761 training images that OVR-CNN counts in this split.
"""

from ..common.coco import clip, data, dataloader
from ..common.gridclip_r50 import model
from ..common.train import lr_multiplier, optimizer, train

model.max_detections_per_image = 100
train.output_dir = "output/coco_gridclip_r50_ov"
