"""detectron2's FCOS with the parts and settings of a GridCLIP, for comparison."""

from typing import Any

from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead

from gridclip.modeling import CLIPFPN, GridHead, TextClassifier

# Of GridCLIP's model, what FCOS does not have.
_GRIDCLIP_ALONE = {
    "image_alignment",
    "dense_scores",
    "assignment",
    "box_loss_weight",
    "test_topk_locations",
    "grid_alignment_weight",
    "federated_weights",
    "num_sampled_classes",
    "seed",
}


def fcos_of(
    *,
    backbone: CLIPFPN,
    head: GridHead,
    classifier: TextClassifier,
    head_in_features: list[str],
    anchor_scale: float = 1.0,
    **settings: Any,
) -> FCOS:
    """detectron2's FCOS with the parts and settings of a GridCLIP; its classes are those of the
    classifier."""
    shapes = [backbone.output_shape()[name] for name in head_in_features]
    model = FCOS(
        backbone=backbone,
        head=FCOSHead(
            input_shape=shapes,
            conv_dims=[m.out_channels for m in head.bbox_subnet if hasattr(m, "out_channels")],
            num_classes=classifier.num_classes,
            norm="GN",
        ),
        head_in_features=head_in_features,
        num_classes=classifier.num_classes,
        **{name: value for name, value in settings.items() if name not in _GRIDCLIP_ALONE},
    )
    strides = [shape.stride for shape in shapes]
    model.anchor_generator = DefaultAnchorGenerator(
        sizes=[[anchor_scale * stride] for stride in strides], aspect_ratios=[1.0], strides=strides
    )
    return model
