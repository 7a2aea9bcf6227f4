"""GridCLIP with CLIP's RN50: FPN P3 to P7, four-convolution towers, LVIS's 300 detections."""

from clip.clip import _transform
from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import LastLevelP6P7

from gridclip.clip_models import CLIP_RESNETS
from gridclip.modeling import (
    CLIPFPN,
    CLIPResNet,
    DenseImageAlignment,
    DenseScores,
    DistributionHead,
    GridCLIP,
    TaskAlignedAssignment,
    TextClassifier,
)

# CLIP's mean and standard deviation, here in the range of 0 to 255.
_normalize = _transform(224).transforms[-1]

model = L(GridCLIP)(
    backbone=L(CLIPFPN)(
        bottom_up=L(CLIPResNet)(**CLIP_RESNETS["RN50"], freeze_at=2),
        in_features=["res3", "res4", "res5"],
        out_channels=256,
        top_block=L(LastLevelP6P7)(
            in_channels="${..out_channels}", out_channels="${..out_channels}", in_feature="p5"
        ),
    ),
    head=L(DistributionHead)(
        in_channels="${..backbone.out_channels}",
        num_levels=5,
        conv_dims=[256, 256, 256, 256],
        embed_dim="${..classifier.embed_dim}",
    ),
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    classifier=L(TextClassifier)(
        text_embeddings="${clip.text_embeddings}",
        embed_dim=CLIP_RESNETS["RN50"]["embed_dim"],
    ),
    image_alignment=L(DenseImageAlignment)(loss="cosine", weight=2.0),
    # 0.4 times CLIP's own factor of 100, as on the laptop world.
    dense_scores=L(DenseScores)(scale=40.0, weight=0.15),
    assignment=L(TaskAlignedAssignment)(),
    box_loss_weight=2.0,
    test_score_thresh=0.0,
    test_topk_locations=300,
    test_topk_candidates=1000,
    test_nms_thresh=0.6,
    max_detections_per_image=300,
    pixel_mean=[255 * value for value in _normalize.mean],
    pixel_std=[255 * value for value in _normalize.std],
)
