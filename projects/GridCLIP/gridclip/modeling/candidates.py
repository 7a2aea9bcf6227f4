"""The best (location, category) pairs of a level, without its whole matrix of scores."""

from collections.abc import Callable

import torch
from torch import Tensor

# Locations scored at a time: bounds the memory at CHUNK x C logits.
CHUNK = 4096


def top_candidates(
    classify: Callable[[Tensor], Tensor],
    grid_features: Tensor,
    centerness: Tensor,
    *,
    score_threshold: float,
    num_candidates: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The k best pairs by score sqrt(sigmoid(logit) * sigmoid(centerness)), exactly.

    At one location the score grows with the logit. So the k locations with the largest score of
    their best category hold the k best pairs: each of them has a pair at least as good as any
    pair elsewhere. Only their logits are kept and turned into scores.

    Args:
        classify: (L, F) features to (L, C) logits.
        grid_features: (R, F).
        centerness: (R, 1) logits.
        score_threshold: pairs must score more.
        num_candidates: k, at most.

    Returns:
        scores (K,), descending; locations (K,) int64; classes (K,) int64. Which of several equal
        pairs is kept where k cuts them off is not defined.
    """
    best_logits = torch.cat(
        [classify(chunk).amax(dim=1, keepdim=True) for chunk in grid_features.split(CHUNK)]
    )
    best_scores = _scores(best_logits, centerness).squeeze(1)
    best_scores, locations = best_scores.topk(min(num_candidates, len(best_scores)))
    locations = locations[best_scores > score_threshold]

    scores = _scores(classify(grid_features[locations]), centerness[locations])
    rows, classes = (scores > score_threshold).nonzero(as_tuple=True)
    scores, order = scores[rows, classes].topk(min(num_candidates, len(rows)))
    return scores, locations[rows[order]], classes[order]


def _scores(logits: Tensor, centerness: Tensor) -> Tensor:
    return (logits.sigmoid() * centerness.sigmoid()).sqrt()
