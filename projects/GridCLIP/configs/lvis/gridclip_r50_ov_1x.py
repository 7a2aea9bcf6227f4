"""GridCLIP R50, LVIS v1 open-vocabulary, 1x.

90,000 steps of 16 images are 1.44M images: 14.4 passes over LVIS's 100,170 training images.
"""

from detectron2.config import LazyCall as L
from detectron2.data.detection_utils import get_fed_loss_cls_weights

from ..common.gridclip_r50 import model
from ..common.lvis import clip, dataloader
from ..common.train import lr_multiplier, optimizer, train

# The metadata count images of base categories only: novel ones are never drawn as negatives.
model.federated_weights = L(get_fed_loss_cls_weights)(
    dataset_names="${dataloader.train.dataset.names}", freq_weight_power=0.5
)
model.seed = "${train.seed}"
train.output_dir = "output/gridclip_r50_ov_1x"
