"""The best (location, category) pairs of a level, without its whole matrix of scores."""

import torch
from torch import Tensor

from .text_classifier import FoldedClassifier

# Locations scored at a time, which makes CHUNK x C logits. On a CPU those of LVIS's categories stay
# in a cache, and those of 21,841 names below 32 MB: glibc maps larger allocations anew each time.
# On a GPU larger chunks save launches.
CHUNK = {"cpu": 384, "cuda": 4096}


def top_candidates(
    classifier: FoldedClassifier,
    grid_features: Tensor,
    centerness: Tensor,
    *,
    score_threshold: float,
    num_candidates: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The k best pairs by score sqrt(sigmoid(logit) * sigmoid(centerness)), exactly.

    At one location the score grows with the logit. So the k locations with the largest scores of
    their best categories hold the k best pairs: each of them has a pair at least as good as any
    pair elsewhere. Logits below that of the best pair of the k-th location need no score.

    Args:
        classifier: of the features, C categories.
        grid_features: (R, F).
        centerness: (R, 1) logits.
        score_threshold: at least 0; pairs must score more.
        num_candidates: k, at most.

    Returns:
        scores (K,) float32, descending; locations (K,) int64; classes (K,) int64. Which of several
        equal pairs at the end are kept is not defined.
    """
    chunks = grid_features.split(CHUNK[grid_features.device.type])
    best_logits = torch.cat([classifier.best(chunk) for chunk in chunks])
    best_scores = _scores(best_logits, centerness).squeeze(1)
    best_scores, locations = best_scores.topk(min(num_candidates, len(best_scores)))
    # A little below the threshold, as a pair's own score may round differently.
    locations = locations[best_scores > score_threshold * (1 - 1e-4)]
    if not len(locations):
        return best_scores[:0], locations, locations

    enough = len(locations) == num_candidates
    least_score = best_scores[-1] if enough else best_scores.new_tensor(score_threshold)
    centerness = centerness[locations]
    logits = classifier(grid_features[locations])
    rows, classes = (logits >= _least_logits(least_score, centerness)).nonzero(as_tuple=True)
    scores = _scores(logits[rows, classes], centerness[rows, 0])
    above = scores > score_threshold
    rows, classes, scores = rows[above], classes[above], scores[above]
    scores, order = scores.topk(min(num_candidates, len(scores)))
    return scores, locations[rows[order]], classes[order]


def _scores(logits: Tensor, centerness: Tensor) -> Tensor:
    return (logits.float().sigmoid() * centerness.float().sigmoid()).sqrt()


def _least_logits(score: Tensor, centerness: Tensor) -> Tensor:
    """A lower bound of the logits that give a score of at least ``score``."""
    # A little low, as scores are rounded; the 1e-30 are for products near float32's least number.
    probability = (score.square() * (1 - 1e-4) - 1e-30).clamp(min=0) / centerness.float().sigmoid()
    return probability.logit()
