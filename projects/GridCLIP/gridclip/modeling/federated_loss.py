"""Classification loss over the categories that are known for each image.

LVIS is federated: an image lists the categories annotated in it (positive) and those verified to
be absent (negative). Any other category is unknown there, not negative.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from fvcore.nn import sigmoid_focal_loss_jit  # as in detectron2's dense detectors
from torch import Tensor


@dataclass(frozen=True)
class ImageLabels:
    """What is known of one image, as contiguous category ids.

    Attributes:
        positive: (P,) int64, the categories annotated in it; they may repeat.
        negative: (Q,) int64, the categories verified to be absent.
        not_exhaustive: (S,) int64, positive categories of which some objects lack a box.
    """

    positive: Tensor
    negative: Tensor
    not_exhaustive: Tensor


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
    images: Sequence[ImageLabels], sampled: Tensor, num_classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The categories in a batch's loss, and the images in which each counts.

    Args:
        images: the N images' labels.
        sampled: (S,) int64, taken as negative in every image where they are not positive.
        num_classes: C.

    Returns:
        classes (K,) int64 ascending; known (N, K) bool, whether the category is positive,
        negative or sampled for the image; exhaustive (N, K) bool, False where locations without
        a box of the category may still show one.
    """
    device = sampled.device
    known = torch.zeros(len(images), num_classes, dtype=torch.bool, device=device)
    exhaustive = torch.ones_like(known)
    for i, labels in enumerate(images):
        known[i, labels.positive] = True
        known[i, labels.negative] = True
        known[i, sampled] = True
        exhaustive[i, labels.not_exhaustive] = False
    classes = known.any(dim=0).nonzero().squeeze(1)
    return classes, known[:, classes], exhaustive[:, classes]


def federated_focal_loss(
    logits: Tensor,
    gt_labels: Tensor,
    classes: Tensor,
    known: Tensor,
    exhaustive: Tensor,
    *,
    num_classes: int,
    alpha: float,
    gamma: float,
) -> Tensor:
    """Sigmoid focal loss, summed, over the known (image, category) pairs.

    Args:
        logits: (N, R, K) float, of the categories in ``classes``.
        gt_labels: (N, R) int64 in [0, C], C the background.
        classes, known, exhaustive: of :func:`federated_classes`; ``classes`` has all labels that
            occur.
        num_classes: C.
        alpha, gamma: of the focal loss.
    """
    column = torch.full((num_classes + 1,), -1, device=classes.device)
    column[classes] = torch.arange(len(classes), device=classes.device)
    target_column = column[gt_labels]  # (N, R), -1 at the background
    targets = torch.zeros_like(logits)
    foreground = target_column >= 0
    targets[foreground.nonzero(as_tuple=True) + (target_column[foreground],)] = 1
    loss = sigmoid_focal_loss_jit(logits, targets, alpha=alpha, gamma=gamma, reduction="none")
    unknown_background = ~exhaustive[:, None] & (targets == 0)
    counts = known[:, None] & ~unknown_background
    return (loss * counts).sum()
