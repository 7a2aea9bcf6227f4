"""Which of an exported detector's candidates are its detections."""

from typing import NamedTuple

import numpy as np


class Limits(NamedTuple):
    """Which detections are kept.

    Attributes:
        threshold: the score that they have to pass.
        nms: of two boxes of a category that overlap by more than this IoU the better one is kept.
        max_detections: of a picture.
    """

    threshold: float
    nms: float
    max_detections: int


class Candidates(NamedTuple):
    """Of one picture.

    Attributes:
        boxes: (K, 4) float32, XYXY in pixels.
        scores: (K,) float32.
        classes: (K,) int64.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def of(self, rows: np.ndarray) -> "Candidates":
        """Some of them: int64 rows, or a bool for each."""
        return Candidates(self.boxes[rows], self.scores[rows], self.classes[rows])


def choose(
    found: Candidates, limits: Limits, network: tuple[int, int], picture: tuple[int, int]
) -> Candidates:
    """The detections, best first, in pixels of the picture and clipped to it.

    Args:
        network, picture: heights and widths of the picture as the network saw it, without
            padding, and of its own.
    """
    found = found.of(found.scores > np.float64(limits.threshold))
    found = found.of(suppress(found, limits.nms, limits.max_detections))
    (height, width), (y, x) = picture, (picture[0] / network[0], picture[1] / network[1])
    boxes = found.boxes * np.array([x, y, x, y], np.float32)
    boxes = boxes.clip(0, np.array([width, height, width, height], np.float32))
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return found._replace(boxes=boxes).of(has_area)


def suppress(found: Candidates, nms: float, most: int) -> np.ndarray:
    """Greedy non-maximum suppression within each category, as torchvision's ``batched_nms`` does
    it on a CPU. It ends when ``most`` are kept.

    Returns:
        Rows of what is kept, by descending score.
    """
    order = np.argsort(-found.scores, kind="stable")
    boxes, _, classes = found.of(order)
    if 0 < boxes.size <= 4000:
        # So does torchvision: few boxes are moved apart by their categories. This rounds their
        # coordinates, and with them the overlaps.
        boxes = boxes + (classes.astype(np.float32) * (boxes.max() + np.float32(1)))[:, None]
        classes = np.zeros_like(classes)
    # Category by category, each by descending score: the rivals of a box lie behind it in a row.
    grouped = np.argsort(classes, kind="stable")
    place = np.empty_like(grouped)
    place[grouped] = np.arange(len(grouped))
    end = np.searchsorted(classes[grouped], classes, side="right")
    x0, y0, x1, y1 = np.ascontiguousarray(boxes[grouped].T)
    areas = (x1 - x0) * (y1 - y0)
    gone = np.zeros(len(order), bool)
    kept: list[int] = []
    with np.errstate(invalid="ignore"):  # of two boxes without area
        for i, (own, last) in enumerate(zip(place.tolist(), end.tolist(), strict=True)):
            if gone[own]:
                continue
            kept.append(i)
            if len(kept) == most:
                break
            if own + 1 == last:
                continue
            rivals = slice(own + 1, last)
            width = np.minimum(x1[rivals], x1[own]) - np.maximum(x0[rivals], x0[own])
            height = np.minimum(y1[rivals], y1[own]) - np.maximum(y0[rivals], y0[own])
            shared = np.maximum(width, 0) * np.maximum(height, 0)
            overlaps = shared / (areas[own] + areas[rivals] - shared)
            gone[rivals] |= overlaps > np.float64(nms)
    return order[kept]
