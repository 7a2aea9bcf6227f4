"""Calibration of random weights, so that a detector takes as long as a trained one.

Signals get an ordinary size and no category is favoured. About the same number of (box, category)
pairs goes to NMS in every detector, because the time of post-processing depends on it.
"""

import copy

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.meta_arch import FCOS, GeneralizedRCNN
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

from gridclip.modeling import GridCLIP
from gridclip.vild import ViLD

# GridCLIP passes at most 1000 candidates of each of five levels to NMS.
SURVIVORS = 5000
_NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d, TorchvisionFrozenBatchNorm2d)


@torch.no_grad()
def calibrate_norms(model: nn.Module, inputs: list[dict]) -> None:
    """Set the statistics of the backbone's batch norms, frozen ones too, to those of ``inputs``."""

    def set_statistics(norm: nn.Module, arguments: tuple[Tensor]) -> None:
        norm.running_mean.copy_(arguments[0].mean(dim=(0, 2, 3)))
        norm.running_var.copy_(arguments[0].var(dim=(0, 2, 3)))

    hooks = [
        module.register_forward_pre_hook(set_statistics)
        for module in model.modules()
        if isinstance(module, _NORMS)
    ]
    try:
        if isinstance(model, FCOS | GeneralizedRCNN):
            model.backbone(model.preprocess_image(inputs).tensor)
        else:
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def calibrate_scores(model: nn.Module, inputs: list[dict], survivors: int = SURVIVORS) -> None:
    """Favour no category, and let ``survivors`` pairs of the first picture pass the threshold.

    Random features are alike, so the same few categories would be best everywhere. Hence what
    they have in common is removed first. GridCLIP and ViLD have a threshold of 0: GridCLIP takes
    the best of each level, and of ViLD's pairs about ten a proposal pass the matched threshold.
    """
    inputs = inputs[:1]
    if isinstance(model, ViLD):
        heads = model.roi_heads
        projections = [heads.box_predictor.projection]
        if heads.image_head is not None:
            projections.append(heads.image_projection)
        for projection in projections:
            projection.bias -= _output_of(projection, model, inputs).mean(dim=0)
    elif isinstance(model, GeneralizedRCNN):
        predictor = model.roi_heads.box_predictor
        logits = _output_of(predictor, model, inputs)[0].double()
        shift = -logits.mean(dim=0)
        shift[-1] += _background_shift(logits + shift, predictor.test_score_thresh, survivors)
        predictor.cls_score.bias += shift
    elif isinstance(model, GridCLIP):
        features = _output_of(model.head, model, inputs)[0]
        features = torch.cat(features, dim=1)[0]
        mean = features.mean(dim=0)
        weight = model.head.grid_embedding.weight
        weight -= torch.outer(weight @ mean, mean) / (mean @ mean)
    else:
        logits, centerness, threshold, bias = _closed_set_outputs(model, inputs)
        shift = -logits.mean(dim=0)
        bias += shift + _dense_shift(logits + shift, centerness, threshold, survivors)


def _dense_shift(logits: Tensor, centerness: Tensor, threshold: float, survivors: int) -> Tensor:
    """The shift of all logits that lets ``survivors`` pairs pass the score threshold.

    The score of a pair is sqrt(sigmoid(logit + shift) sigmoid(centerness)).

    Args:
        logits: (R, C).
        centerness: (R, 1), logits too.
    """
    # Infinite where the centerness alone is too low.
    needed = (threshold**2 / centerness.sigmoid()).clamp(max=1).logit()
    margins = (logits - needed).flatten()
    return -margins.topk(min(survivors, len(margins))).values[-1]


def _background_shift(logits: Tensor, threshold: float, survivors: int) -> Tensor:
    """The shift of the background's logit that lets ``survivors`` scores pass the threshold.

    Args:
        logits: (R, C + 1), the background last.
    """
    foreground = logits[:, :-1].exp()
    # exp(l) / (sum + exp(background + shift)) > t: shift < log(exp(l) / t - sum) - background.
    room = foreground / threshold - foreground.sum(dim=1, keepdim=True)
    shifts = (room.clamp(min=1e-300).log() - logits[:, -1:]).flatten()
    return shifts.topk(min(survivors, len(shifts))).values[-1]


def _closed_set_outputs(
    model: nn.Module, inputs: list[dict]
) -> tuple[Tensor, Tensor, float, Tensor]:
    """Of an FCOS: (R, C) logits, (R, 1) centerness, the score threshold and the (C,) bias."""
    if isinstance(model, FCOS):
        logits, _, centerness = (
            torch.cat([level[0].flatten(1) for level in levels], dim=1).T
            for levels in _output_of(model.head, model, inputs)
        )
        return logits, centerness, model.test_score_thresh, model.head.cls_score.bias
    detector = model.detector
    out = _output_of(detector.head, model, inputs)
    bias = detector.head.classification_head.cls_logits.bias
    return out["cls_logits"][0], out["bbox_ctrness"][0], detector.score_thresh, bias


def _output_of(module: nn.Module, model: nn.Module, inputs: list[dict]):
    """A copy of what ``module`` first returns in a forward pass of ``model``."""
    outputs = []
    # A copy, because FCOS changes its head's outputs in place.
    hook = module.register_forward_hook(lambda _, __, out: outputs.append(copy.deepcopy(out)))
    try:
        model(inputs)
    finally:
        hook.remove()
    return outputs[0]
