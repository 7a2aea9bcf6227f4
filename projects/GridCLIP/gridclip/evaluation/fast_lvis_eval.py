"""lvis-api's box evaluation on arrays: the same figures in a fraction of its time and memory."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from lvis import LVIS, LVISEval, LVISResults
from numpy.typing import NDArray
from tqdm import tqdm

from .detections import Detections
from .matching import find_candidates, match_greedily

_BOX = [
    ("category", np.int64),  # index into params.cat_ids
    ("image", np.int64),  # index into params.img_ids
    ("box", np.float64, 4),  # XYWH
    ("area", np.float64),
]
_GROUND_TRUTH = np.dtype([*_BOX, ("ignore", bool), ("id", np.int64)])
_DETECTION = np.dtype([*_BOX, ("not_exhaustive", bool)])


class FastLVISEval(LVISEval):
    """lvis-api's LVISEval for boxes, with matching and accumulation by numpy.

    Used like the parent: set ``params.img_ids`` to evaluate only some of the images, call
    ``run()``, then read ``results``, ``eval["precision"]`` and ``eval["recall"]``, which equal the
    parent's to the last bit, or call ``print_results()``. Nothing else is kept of the parent's
    ``eval``, ``eval_imgs`` and ``ious``, and ``params.use_cats`` is always 1.
    """

    def __init__(self, lvis_gt: LVIS, detections: Detections, *, max_dets: int = 300):
        """
        Args:
            max_dets: the best detections of an image that count; all if it is negative.

        Raises:
            ValueError: a detection is in an image that the annotations do not have.
        """
        # The parent takes no empty list of detections, and its own are not used.
        super().__init__(lvis_gt, LVISResults.__new__(LVISResults), "bbox")
        if unknown := set(np.unique(detections.image_ids).tolist()) - set(lvis_gt.imgs):
            raise ValueError(
                f"{len(unknown)} images with detections, among them {min(unknown)}, are not in the "
                "annotations: were they made for another data set?"
            )
        self.params.max_dets = max_dets
        self._detections = detections

    def evaluate(self) -> None:
        """Sort what counts, ground truth and detections, by category."""
        self.logger.info("Sorting by category.")
        self.params.img_ids = np.unique(self.params.img_ids).tolist()
        self.freq_groups = self._prepare_freq_group()
        self._gts = self._prepare_ground_truth()
        self._dts = self._prepare_detections()

    def accumulate(self) -> None:
        """Match the detections and compute precision and recall, category by category."""
        self.logger.info("Matching and accumulating.")
        p = self.params
        counts = len(p.iou_thrs), len(p.rec_thrs), len(p.cat_ids), len(p.area_rng)
        precision = -np.ones(counts)  # -1 is for categories without ground truth
        recall = -np.ones(counts[:1] + counts[2:])
        bounds = np.arange(len(p.cat_ids) + 1)
        gt_bounds = np.searchsorted(self._gts["category"], bounds)
        dt_bounds = np.searchsorted(self._dts["category"], bounds)
        for k in tqdm(np.flatnonzero(np.diff(gt_bounds)), unit="category", disable=None):
            gts = self._gts[gt_bounds[k] : gt_bounds[k + 1]]
            dts = self._dts[dt_bounds[k] : dt_bounds[k + 1]]
            self._evaluate_category(gts, dts, precision[:, :, k], recall[:, k])
        self.eval = {"precision": precision, "recall": recall}

    def _prepare_ground_truth(self) -> NDArray:
        p = self.params
        # lvis-api's own selection, which leaves out annotations without area.
        ids = self.lvis_gt.get_ann_ids(img_ids=p.img_ids, cat_ids=p.cat_ids)
        rows = [
            (ann["category_id"], ann["image_id"], tuple(ann["bbox"]))
            + (ann["area"], bool(ann.get("ignore", 0)), ann["id"])
            for ann in self.lvis_gt.load_anns(ids)
        ]
        gts = np.array(rows, dtype=_GROUND_TRUTH)
        gts["category"] = _index_of(gts["category"], p.cat_ids)
        gts["image"] = _index_of(gts["image"], p.img_ids)
        return gts[np.argsort(gts["category"], kind="stable")]

    def _prepare_detections(self) -> NDArray:
        """Those in evaluated images, of categories known to be present or absent there."""
        p, detections = self.params, self._detections
        if p.max_dets >= 0:
            detections = detections.best_of_each_image(p.max_dets)
        images = _index_of(detections.image_ids, p.img_ids)
        categories = _index_of(detections.category_ids, p.cat_ids)
        areas = detections.areas
        pairs = categories * len(p.img_ids) + images
        annotated = self._gts["category"] * len(p.img_ids) + self._gts["image"]
        verified = np.concatenate([annotated, self._listed_pairs("neg_category_ids")])
        kept = (images >= 0) & (categories >= 0) & (areas > 0) & (areas < np.inf)
        kept &= np.isin(pairs, verified)

        # lvis-api's order: by score, then by image, then as they were given.
        order = np.flatnonzero(kept)
        order = order[np.lexsort((images[order], -detections.scores[order], categories[order]))]
        dts = np.empty(len(order), dtype=_DETECTION)
        dts["category"], dts["image"] = categories[order], images[order]
        dts["box"], dts["area"] = detections.boxes[order], areas[order]
        not_exhaustive = self._listed_pairs("not_exhaustive_category_ids")
        dts["not_exhaustive"] = np.isin(pairs[order], not_exhaustive)
        return dts

    def _listed_pairs(self, field: str) -> NDArray:
        """category index * number of images + image index, of all categories in images' lists.
        Of a category that is not evaluated it is negative."""
        listed = [record[field] for record in self.lvis_gt.load_imgs(self.params.img_ids)]
        categories = np.fromiter(chain.from_iterable(listed), np.int64)
        images = np.repeat(np.arange(len(listed)), [len(ids) for ids in listed])
        return _index_of(categories, self.params.cat_ids) * len(listed) + images

    def _evaluate_category(
        self, gts: NDArray, dts: NDArray, precision: NDArray, recall: NDArray
    ) -> None:
        """Fill precision (IoU thresholds, recalls, areas) and recall (IoU thresholds, areas)."""
        p = self.params
        thresholds = np.minimum(p.iou_thrs, 1 - 1e-10)
        candidates = find_candidates(
            dts["box"], dts["image"], gts["box"], gts["image"], thresholds.min()
        )
        gt_ignored = gts["ignore"][:, None] | _outside(gts["area"], p.area_rng)
        dt_ignored = dts["not_exhaustive"][:, None] | _outside(dts["area"], p.area_rng)
        matches = match_greedily(candidates, gt_ignored, thresholds, len(dts))

        for area in range(len(p.area_rng)):
            num_gt = int(np.count_nonzero(~gt_ignored[:, area]))
            if num_gt:
                gt = matches[:, area]  # -1 for none, which indexes the last one
                # lvis-api takes the id 0 for no match.
                matched = (gt >= 0) & (gts["id"][gt] != 0)
                ignored = (gt >= 0) & gt_ignored[gt, area]
                ignored |= ~matched & dt_ignored[:, area, None]
                precision[..., area], recall[:, area] = precision_and_recall(
                    matched & ~ignored, ~matched & ~ignored, num_gt, p.rec_thrs
                )


def precision_and_recall(
    true_positives: NDArray, false_positives: NDArray, num_gt: int, recall_thresholds: NDArray
) -> tuple[NDArray, NDArray]:
    """Interpolated precision (T, R), 0 at a recall that is not reached, and highest recall (T,).

    Args:
        true_positives: (D, T) bool, of D detections, best score first, at T IoU thresholds.
        false_positives: (D, T) bool. Detections that are neither are ignored.
        num_gt: at least 1.
        recall_thresholds: (R,) float64, ascending.
    """
    num_dets, num_ious = true_positives.shape
    precision = np.zeros((num_ious, len(recall_thresholds)))
    tp = np.cumsum(true_positives, axis=0, dtype=np.float64)
    fp = np.cumsum(false_positives, axis=0, dtype=np.float64)
    recalls = tp / num_gt
    envelope = np.maximum.accumulate((tp / (fp + tp + np.spacing(1)))[::-1], axis=0)[::-1]
    for t in range(num_ious):
        first = np.searchsorted(recalls[:, t], recall_thresholds, side="left")
        reached = first < num_dets
        precision[t, reached] = envelope[first[reached], t]
    return precision, recalls.max(axis=0, initial=0)


def _outside(areas: NDArray, ranges: Sequence[Sequence[float]]) -> NDArray:
    """(N, ranges) bool: below or above a range. Its ends belong to it."""
    low, high = np.asarray(ranges).T
    return (areas[:, None] < low) | (areas[:, None] > high)


def _index_of(values: NDArray, ids: Sequence[int]) -> NDArray:
    """The position of each value among ascending ids, -1 for others."""
    return np.where(np.isin(values, ids), np.searchsorted(ids, values), -1)
