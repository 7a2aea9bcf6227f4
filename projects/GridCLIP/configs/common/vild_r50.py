"""ViLD with CLIP's RN50 as backbone: FPN P2 to P6, 1000 proposals, LVIS's 300 detections.

There is no mask branch. The ensemble has a separate head for distillation:

    model.roi_heads.image_head = "${.box_head}"

ViLD-text has no distillation: ``model.roi_heads.distillation_weight = 0``. An experiment has to set
``model.classifier.novel_classes``, the contiguous ids that its training data leave out.

The official configuration differs: batch norm in FPN, RPN head and box head, synchronised over 256
images, a second fully connected layer and a second convolution in the RPN head. Here only the
(frozen) backbone is normalised, as in detectron2's Faster R-CNN, so that it runs on a CPU and with
small batches. ``conv_norm`` may be "GN" or, on several GPUs, "SyncBN".
"""

from clip.clip import _transform
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from gridclip.clip_models import CLIP_RESNETS
from gridclip.modeling import CLIPFPN, CLIPResNet
from gridclip.vild import ViLD, ViLDClassifier, ViLDOutputLayers, ViLDROIHeads

# CLIP's mean and standard deviation, here in the range of 0 to 255.
_normalize = _transform(224).transforms[-1]

model = L(ViLD)(
    backbone=L(CLIPFPN)(
        bottom_up=L(CLIPResNet)(**CLIP_RESNETS["RN50"], freeze_at=2),
        in_features=["res2", "res3", "res4", "res5"],
        out_channels=256,
        top_block=L(LastLevelMaxPool)(),
    ),
    proposal_generator=L(RPN)(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=L(StandardRPNHead)(in_channels="${...backbone.out_channels}", num_anchors=3),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32], [64], [128], [256], [512]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=[2000, 1000],
        post_nms_topk=[1000, 1000],
        nms_thresh=0.7,
    ),
    roi_heads=L(ViLDROIHeads)(
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=L(ROIPooler)(
            output_size=7,
            scales=[1.0 / 4, 1.0 / 8, 1.0 / 16, 1.0 / 32],
            sampling_ratio=0,
            pooler_type="ROIAlignV2",
        ),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=L(ShapeSpec)(channels="${....backbone.out_channels}", height=7, width=7),
            conv_dims=[256, 256, 256, 256],
            fc_dims=[1024],
            conv_norm="",
        ),
        box_predictor=L(ViLDOutputLayers)(
            input_shape=L(ShapeSpec)(channels=1024),
            embed_dim="${...classifier.embed_dim}",
            box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
            test_score_thresh=0.0,
            test_nms_thresh=0.5,
            test_topk_per_image=300,
        ),
        image_head=None,
        distillation_weight=0.5,
    ),
    classifier=L(ViLDClassifier)(
        text_embeddings="${clip.text_embeddings}",
        embed_dim=CLIP_RESNETS["RN50"]["embed_dim"],
    ),
    dense_scores=None,
    pixel_mean=[255 * value for value in _normalize.mean],
    pixel_std=[255 * value for value in _normalize.std],
)
