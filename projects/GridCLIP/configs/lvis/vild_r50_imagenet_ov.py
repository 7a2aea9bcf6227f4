"""Like ViLD, but with detectron2's R50 and torchvision's ImageNet weights instead of CLIP's RN50.

``train.init_checkpoint=FILE.pth`` takes another ResNet-50 in torchvision's names, such as SoCo's.
detectron2's own R-50.pkl is a pickle and is refused. The teacher is still CLIP's RN50.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling import FPN
from detectron2.modeling.backbone import BasicStem, ResNet

from .vild_r50_ov import clip, data, dataloader, lr_multiplier, model, optimizer, train

model.backbone._target_ = FPN  # CLIPFPN is for CLIP's trunk
model.backbone.bottom_up = L(ResNet)(
    stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
    stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm="FrozenBN"),
    out_features=["res2", "res3", "res4", "res5"],
    freeze_at=2,
)
model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
train.init_checkpoint = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
train.output_dir = "output/vild_r50_imagenet_ov"
