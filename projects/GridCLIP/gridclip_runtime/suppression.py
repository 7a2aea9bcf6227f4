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
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # Rows category by category, each by descending score; ``end`` is where a row's category ends.
    grouped = np.argsort(classes, kind="stable")
    place = np.empty_like(grouped)
    place[grouped] = np.arange(len(grouped))
    end = np.searchsorted(classes[grouped], classes, side="right")
    gone = np.zeros(len(order), bool)
    kept: list[int] = []
    for i in range(len(order)):
        if gone[i]:
            continue
        kept.append(i)
        if len(kept) == most:
            break
        rivals = grouped[place[i] + 1 : end[i]]
        if len(rivals):
            gone[rivals] |= _overlaps(boxes[i], boxes[rivals], areas[i], areas[rivals]) > nms
    return order[kept]


def _overlaps(
    box: np.ndarray, others: np.ndarray, area: np.ndarray, areas: np.ndarray
) -> np.ndarray:
    """The IoU of a box with others, (K,) float64 from float32."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    with np.errstate(invalid="ignore"):  # of two boxes without area
        return (shared / (area + areas - shared)).astype(np.float64)
