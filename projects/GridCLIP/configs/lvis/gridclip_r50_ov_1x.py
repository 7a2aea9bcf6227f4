"""GridCLIP R50, LVIS v1 open-vocabulary, 1x.

90,000 steps of 16 images are 1.44M images: 14.4 passes over LVIS's 100,170 training images.
"""

from detectron2.config import LazyCall as L

from gridclip.data import federated_weights

from ..common.gridclip_r50 import model
from ..common.lvis import clip, data, dataloader
from ..common.train import lr_multiplier, optimizer, train

model.federated_weights = L(federated_weights)(data="${data.train}")
model.seed = "${train.seed}"
train.output_dir = "output/gridclip_r50_ov_1x"
