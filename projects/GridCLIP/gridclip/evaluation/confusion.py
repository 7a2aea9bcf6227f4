"""Which names are confused: what the detections on an object call it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gridclip.data import DatasetDescription

from .detections import Detections
from .matching import find_candidates, match_greedily


@dataclass(frozen=True, eq=False)
class Confusions:
    """How the objects of C categories were called.

    Attributes:
        objects: (C,) int64, ground-truth boxes of each category.
        missed: (C,) int64, those that no detection is on.
        called: (category, name it was given) to how often; also where both are the same.
    """

    objects: NDArray
    missed: NDArray
    called: Counter[tuple[int, int]]

    def shares(self, rows: Sequence[int], columns: Sequence[int]) -> NDArray:
        """Of the objects of each of R categories the parts that were called as each of K, anything
        else, and nothing: (R, K + 2) float64. A row sums to 1; without objects it is nan."""
        table = np.array([[self.called[row, column] for column in columns] for row in rows], float)
        objects, missed = self.objects[list(rows)], self.missed[list(rows)]
        others = objects - missed - table.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.column_stack([table, others, missed]) / objects[:, None]


def count_confusions(
    data: DatasetDescription,
    found: Detections,
    images: NDArray,
    *,
    min_score: float,
    min_iou: float = 0.5,
) -> Confusions:
    """Give objects to detections, whatever their names.

    In each image the detections choose in turn, best score first. Each takes an object that it
    overlaps by ``min_iou`` and that is left: one of its own name if there is one, else that of the
    highest IoU. So a box's best name counts, and its other names do not. Boxes around crowds are
    not counted.

    Args:
        data: with annotations.
        found: its indices of images and categories.
        images: (I,) int64, the images to count in.
        min_score: detections with a lower score are left out.
    """
    annotations = data.annotations
    own = np.isin(annotations.images, images)
    classes, crowds = annotations.classes[own], annotations.crowds[own]
    order = np.argsort(-found.scores, kind="stable")
    order = order[found.scores[order] >= min_score]
    names = found.category_ids[order]
    candidates = find_candidates(
        found.boxes[order],
        found.image_ids[order],
        annotations.boxes[own],
        annotations.images[own],
        min_iou,
    )
    # An IoU is at most 1: one more puts objects of the detection's own name first.
    own_name = names[candidates.detections] == classes[candidates.ground_truth]
    candidates = candidates._replace(ious=candidates.ious + own_name)
    matches = match_greedily(candidates, crowds[:, None], np.array([min_iou]), len(names))[:, 0, 0]
    hit = np.flatnonzero(matches >= 0)
    hit = hit[~crowds[matches[hit]]]
    true, called = classes[matches[hit]], names[hit]
    objects = np.bincount(classes[~crowds], minlength=len(data.names))
    missed = objects - np.bincount(true, minlength=len(data.names))
    return Confusions(objects, missed, Counter(zip(true.tolist(), called.tolist(), strict=True)))


def most_frequent(runs: Iterable[Confusions]) -> list[tuple[int, int]]:
    """All (category, other name it was given) pairs, from those that the runs together have most
    often."""
    total: Counter[tuple[int, int]] = Counter()
    for run in runs:
        total.update({pair: n for pair, n in run.called.items() if pair[0] != pair[1]})
    return sorted(total, key=lambda pair: (-total[pair], pair))


def most_confused(pairs: Iterable[tuple[int, int]], count: int) -> list[int]:
    """The first categories, at most ``count``, that pairs name; those of a pair are neighbours
    unless one was named before."""
    return list(dict.fromkeys(category for pair in pairs for category in pair))[:count]
