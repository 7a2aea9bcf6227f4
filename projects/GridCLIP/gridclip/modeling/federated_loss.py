"""Classification loss over the categories that are known for each image.

LVIS is federated: an image lists the categories annotated in it (positive) and those verified to
be absent (negative). Any other category is unknown there, not negative.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from fvcore.nn import sigmoid_focal_loss_jit  # as in detectron2's dense detectors
from torch import Tensor


def sample_classes(weights: Tensor, num_samples: int, seed: int) -> Tensor:
    """Draw categories without replacement, as CenterNet2's federated loss does.

    Args:
        weights: (C,) float, nonnegative; a category of weight 0 is never drawn.
        num_samples: the most that are drawn; fewer if fewer have a weight.
        seed: the same on all ranks, so that they draw the same categories.

    Returns:
        (num_samples,) int64 on the device of ``weights``.
    """
    num_samples = min(num_samples, int(torch.count_nonzero(weights)))
    if num_samples == 0:
        return torch.empty(0, dtype=torch.long, device=weights.device)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(weights.cpu(), num_samples, replacement=False, generator=generator)
    return drawn.to(weights.device)


def federated_classes(
    batched_inputs: Sequence[dict], sampled: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """The categories in a batch's loss, and the images in which each is a negative.

    Args:
        batched_inputs: of the N images. "instances" has ``gt_classes``. Categories verified to be
            absent are "negative_classes"; without these the image is annotated throughout. Of
            "not_exhaustive_classes" some objects lack a box. All are int64 and contiguous ids.
        sampled: (S,) int64, taken as negative in every image where they are not positive.
        num_classes: C.

    Returns:
        classes (K,) int64 ascending; negatives (N, K) bool, whether locations without a box of the
        category count as background.
    """
    known = torch.zeros(len(batched_inputs), num_classes, dtype=torch.bool, device=sampled.device)
    known[:, sampled] = True
    exhaustive = torch.ones_like(known)
    for i, inputs in enumerate(batched_inputs):
        known[i, inputs["instances"].gt_classes] = True
        known[i, inputs.get("negative_classes", slice(None))] = True
        exhaustive[i, inputs.get("not_exhaustive_classes", [])] = False
    classes = known.any(dim=0).nonzero().squeeze(1)
    return classes, (known & exhaustive)[:, classes]


def federated_focal_loss(
    logits: Tensor,
    gt_labels: Tensor,
    classes: Tensor,
    negatives: Tensor,
    *,
    alpha: float,
    gamma: float,
) -> Tensor:
    """Sigmoid focal loss, summed over the positives and the known negatives.

    Args:
        logits: (N, R, K) float, of the categories in ``classes``.
        gt_labels: (N, R) int64 in [0, C], C the background.
        classes, negatives: of :func:`federated_classes`; ``classes`` has all labels that occur.
        alpha, gamma: of the focal loss.
    """
    positives = gt_labels[..., None] == classes  # (N, R, K)
    loss = sigmoid_focal_loss_jit(
        logits, positives.to(logits.dtype), alpha=alpha, gamma=gamma, reduction="none"
    )
    return (loss * (positives | negatives[:, None])).sum()


def federated_varifocal_loss(
    logits: Tensor,
    gt_labels: Tensor,
    gt_scores: Tensor,
    classes: Tensor,
    negatives: Tensor,
    *,
    alpha: float,
    gamma: float,
) -> Tensor:
    """Varifocal loss (arXiv 2008.13367, equation 2), summed over positives and known negatives.

    A positive's cross-entropy to its target q counts q times, a negative's alpha p^gamma times.

    Args:
        logits, gt_labels, classes, negatives: of :func:`federated_focal_loss`.
        gt_scores: (N, R) float, q of the label.
        alpha, gamma: of the weights of negatives.
    """
    positives = gt_labels[..., None] == classes  # (N, R, K)
    targets = positives * gt_scores[..., None].to(logits.dtype)
    weights = torch.where(positives, targets, alpha * logits.sigmoid() ** gamma)
    loss = weights * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (loss * (positives | negatives[:, None])).sum()
