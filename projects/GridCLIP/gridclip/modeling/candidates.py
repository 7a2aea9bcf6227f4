"""The best (location, category) pairs of a level, without its whole matrix of scores."""

import torch
from torch import Tensor

from .dense_scores import DenseMap
from .text_classifier import FoldedClassifier

# Locations scored at a time, which makes CHUNK x C logits. On a CPU those of LVIS's categories stay
# in a cache, and those of 21,841 names below 32 MB: glibc maps larger allocations anew each time.
# On a GPU larger chunks save launches.
CHUNK = {"cpu": 384, "cuda": 4096}


def head_scores(logits: Tensor, quality: Tensor) -> Tensor:
    """As in detectron2's FCOS: (R, C), of logits (R, C) and (R, 1)."""
    return (logits.sigmoid() * quality.sigmoid()).sqrt()


def location_scores(
    classifier: FoldedClassifier,
    grid_features: Tensor,
    quality: Tensor,
    dense: DenseMap | None,
    centers: Tensor,
) -> tuple[Tensor, Tensor]:
    """The scores (R, C) that count, and those of the head alone; they differ by the dense map.

    Args: as of :func:`best_locations`.
    """
    head = head_scores(classifier(grid_features), quality)
    return (head if dense is None else dense.combine(head, centers)), head


def best_locations(
    classifier: FoldedClassifier,
    grid_features: Tensor,
    quality: Tensor,
    num_locations: int,
    dense: DenseMap | None,
    centers: Tensor,
) -> Tensor:
    """The locations whose best categories score most, each by the head and by the dense map.

    The two may mean different categories: so the combined score of no category there is higher.

    Args:
        classifier: of the features, C categories.
        grid_features, quality: (R, F) float32, and (R, 1) logits.
        num_locations: the most that are chosen.
        dense: None: the head alone chooses.
        centers: (R, 2), x and y in pixels.

    Returns:
        (min(num_locations, R),) int64.
    """
    chunks = grid_features.split(CHUNK[grid_features.device.type])
    logits = torch.cat([classifier.best(chunk) for chunk in chunks])
    scores = head_scores(logits, quality).squeeze(1)
    if dense is not None:
        scores = dense.bound(scores, centers)
    return scores.topk(min(num_locations, len(scores))).indices


def best_pairs(scores: Tensor, num_pairs: int, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """The k best entries of a matrix that are above a threshold.

    Args:
        scores: (L, C).
        num_pairs: k, at most.

    Returns:
        scores (K,), descending; rows (K,) int64; columns (K,) int64. Which of several equal entries
        at the end are kept is not defined.
    """
    best, places = scores.flatten().topk(min(num_pairs, scores.numel()))
    above = best > threshold
    best, places = best[above], places[above]
    return best, places // scores.shape[1], places % scores.shape[1]
