"""Greedy matching of one category's detections to its ground truth, by numpy.

In each image, and for each area range and IoU threshold, detections choose their ground truth in
turn, best score first. Images do not depend on each other, so the turns of all images are taken
together: there are as many steps as the image with the most detections near ground truth has.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils


class Candidates(NamedTuple):
    """P pairs of a detection and a ground truth of the same image that overlap enough.

    Attributes:
        detections: (P,) int64, index of the detection, 0 for the best score.
        ground_truth: (P,) int64, index of the ground truth.
        ious: (P,) float64.
        turns: (P,) int64, how many detections with candidates come before it in its image.
    """

    detections: NDArray
    ground_truth: NDArray
    ious: NDArray
    turns: NDArray


def find_candidates(
    boxes: NDArray, images: NDArray, gt_boxes: NDArray, gt_images: NDArray, min_iou: float
) -> Candidates:
    """All pairs whose IoU, as pycocotools computes it, is at least ``min_iou``.

    Args:
        boxes: (D, 4) float64 XYWH of the detections, in the order of their scores, best first.
        images: (D,) int, the image of each.
        gt_boxes: (G, 4) float64 XYWH.
        gt_images: (G,) int, ascending.
    """
    annotated, gt_start = np.unique(gt_images, return_index=True)
    gt_stop = np.append(gt_start[1:], len(gt_images))
    by_image = np.argsort(images, kind="stable")
    start = np.searchsorted(images[by_image], annotated, side="left")
    stop = np.searchsorted(images[by_image], annotated, side="right")

    parts = [Candidates(*np.empty((4, 0), dtype=np.int64))]
    for i in np.flatnonzero(start < stop):
        own = by_image[start[i] : stop[i]]
        gt = slice(gt_start[i], gt_stop[i])
        ious = mask_utils.iou(boxes[own], gt_boxes[gt], [False] * (gt.stop - gt.start))
        rows, columns = np.nonzero(ious >= min_iou)
        if len(rows):
            turns = np.cumsum(np.diff(rows, prepend=rows[0]) > 0)
            parts.append(Candidates(own[rows], gt.start + columns, ious[rows, columns], turns))
    return Candidates(*map(np.concatenate, zip(*parts, strict=True)))


def match_greedily(
    candidates: Candidates, gt_ignored: NDArray, iou_thresholds: NDArray, num_detections: int
) -> NDArray:
    """Match by lvis-api's rules, in A area ranges and at T IoU thresholds.

    Of the ground truth that is left and reaches the threshold, a detection takes the one with the
    highest IoU, the last of equal ones. It takes ground truth to ignore only if no other is left.

    Args:
        gt_ignored: (G, A) bool.
        iou_thresholds: (T,) float64.

    Returns:
        (num_detections, A, T) int32, the index of the ground truth that is taken, or -1.
    """
    # By turn and detection, the better candidate later.
    order = np.lexsort(
        (candidates.ground_truth, candidates.ious, candidates.detections, candidates.turns)
    )
    detections, ground_truth, ious, turns = (column[order] for column in candidates)
    reaches = ious[:, None] >= iou_thresholds

    lanes = (gt_ignored.shape[1], len(iou_thresholds))
    taken = np.zeros((len(gt_ignored), *lanes), dtype=bool)
    matches = np.full((num_detections, *lanes), -1, dtype=np.int32)
    bounds = np.searchsorted(turns, np.arange(turns.max(initial=-1) + 2))
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        now, gt = detections[start:stop], ground_truth[start:stop]
        left = reaches[start:stop, None] & ~taken[gt]
        # Numbered from 1, as 0 means none; what counts is above all that is to be ignored.
        size = stop - start
        preference = np.arange(1, size + 1)[:, None] + size * ~gt_ignored[gt]
        first = np.flatnonzero(np.diff(now, prepend=-1))
        best = np.maximum.reduceat(np.where(left, preference[..., None], 0), first)
        i, area, threshold = np.nonzero(best)
        chosen = gt[(best[i, area, threshold] - 1) % size]
        taken[chosen, area, threshold] = True
        matches[now[first][i], area, threshold] = chosen
    return matches
