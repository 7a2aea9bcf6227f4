"""What a level of the grid says of every category, as maps for people to look at."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .candidates import head_scores
from .dense_scores import DenseMap
from .text_classifier import FoldedClassifier


class LevelScores(NamedTuple):
    """The H x W locations of a level in one image, and C categories.

    Attributes:
        combined: (H, W, C) float32, the scores that count in detection.
        head: (H, W, C) float32, those of the head alone.
        dense: (H, W, C) float32, CLIP's probabilities there; None without dense scores.
        boxes: (H, W, 4) float32, XYXY in pixels of the network's input, not clipped to it.
    """

    combined: Tensor
    head: Tensor
    dense: Tensor | None
    boxes: Tensor


def score_level(
    classifier: FoldedClassifier,
    grid_features: Tensor,
    quality: Tensor,
    dense: DenseMap | None,
    boxes: Tensor,
    size: Sequence[int],
) -> LevelScores:
    """By the functions that detection uses.

    Args:
        classifier: of the features, C categories.
        grid_features, quality: (R, F) float32, and (R, 1) logits.
        dense: at the locations; None: the head alone counts.
        boxes: (R, 4).
        size: H and W, whose product is R.
    """
    head = head_scores(classifier(grid_features), quality)
    combined = head if dense is None else dense.combine(head.clone())
    return LevelScores(
        combined=combined.unflatten(0, size),
        head=head.unflatten(0, size),
        dense=None if dense is None else dense.at().unflatten(0, size),
        boxes=boxes.unflatten(0, size),
    )
