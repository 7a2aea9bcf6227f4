"""A data set's boxes as the ground truth of lvis-api and of pycocotools, and their precision."""

import contextlib
import io
import logging

import numpy as np
from lvis import LVIS
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gridclip.data.annotations import Ragged
from gridclip.data.description import DatasetDescription

from .detections import Detections
from .fast_lvis_eval import FastLVISEval

# More detections of an image than any detector has.
_NO_LIMIT = 1_000_000


def lvis_precision(data: DatasetDescription, detections: Detections, images: list[int]) -> NDArray:
    """LVIS's precision, with FastLVISEval.

    Args:
        detections: all that count; ``image_ids`` are indices of the images, ``category_ids``
            contiguous.
        images: indices of the images that are evaluated.

    Returns:
        (IoU thresholds, recalls, C, areas), -1 throughout where a category has no ground truth.
        The areas are all, small, medium and large.
    """
    dataset = _as_json(data)
    for category, frequency in zip(
        dataset["categories"], data.frequencies or "f" * len(data.names), strict=True
    ):
        category["frequency"] = frequency
    everything = Ragged.same(range(len(data.names)), len(data))
    negatives = data.annotations.negatives or everything
    not_exhaustive = data.annotations.not_exhaustive or Ragged.same([], len(data))
    for index, image in enumerate(dataset["images"]):
        image["neg_category_ids"] = negatives[index].tolist()
        image["not_exhaustive_category_ids"] = not_exhaustive[index].tolist()
    ground_truth = LVIS.__new__(LVIS)  # its constructor reads a file
    ground_truth.dataset = dataset
    ground_truth.logger = logging.getLogger("lvis")
    ground_truth._create_index()
    evaluation = FastLVISEval(ground_truth, detections, max_dets=-1)
    evaluation.params.img_ids = images
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"]


def coco_precision(data: DatasetDescription, detections: Detections, images: list[int]) -> NDArray:
    """COCO's precision, with pycocotools; arguments and result as of :func:`lvis_precision`."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        ground_truth = COCO()
        ground_truth.dataset = _as_json(data)
        ground_truth.createIndex()
        found = COCO()
        found.dataset = {**ground_truth.dataset, "annotations": _as_results(detections)}
        found.createIndex()
        evaluation = COCOeval(ground_truth, found, "bbox")
        evaluation.params.imgIds = images
        evaluation.params.catIds = list(range(len(data.names)))
        evaluation.params.maxDets = [_NO_LIMIT]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., 0]


def _as_json(data: DatasetDescription) -> dict:
    """The data set with indices of images and contiguous ids of categories; ids of boxes count
    from 1, as lvis-api and pycocotools take 0 for no box."""
    a = data.annotations
    rows = zip(
        a.images.tolist(),
        a.classes.tolist(),
        a.boxes.tolist(),
        a.areas.tolist(),
        a.crowds.tolist(),
        strict=True,
    )
    return {
        "images": [{"id": i} for i in range(len(data))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(data.names)],
        "annotations": [
            # lvis-api reads "ignore", pycocotools makes it of "iscrowd".
            dict(id=i, image_id=image, category_id=c, bbox=box, area=area, iscrowd=int(crowd))
            | {"ignore": int(crowd)}
            for i, (image, c, box, area, crowd) in enumerate(rows, start=1)
        ],
    }


def _as_results(detections: Detections) -> list[dict]:
    rows = zip(
        detections.image_ids.tolist(),
        detections.category_ids.tolist(),
        detections.boxes.tolist(),
        detections.scores.tolist(),
        detections.areas.tolist(),
        strict=True,
    )
    return [
        dict(id=i, image_id=image, category_id=c, bbox=box, score=score, area=area, iscrowd=0)
        for i, (image, c, box, score, area) in enumerate(rows, start=1)
    ]


def summarise(
    precision: NDArray, groups: dict[str, list[int]], group_ap50: bool
) -> dict[str, float]:
    """AP in percent, as COCO and LVIS name it, and of groups of categories.

    Means are over the categories with ground truth; a group without any is nan.

    Args:
        precision: of :func:`lvis_precision`; IoU thresholds from 0.5 in steps of 0.05.
        groups: name of the metric to contiguous ids, such as "AP_novel".
        group_ap50: also at an IoU of 0.5, as "AP50_novel".
    """
    rows = {
        "AP": precision[..., 0],
        "AP50": precision[:1, ..., 0],
        "AP75": precision[5:6, ..., 0],
        "APs": precision[..., 1],
        "APm": precision[..., 2],
        "APl": precision[..., 3],
    }
    metrics = {name: _mean(part) for name, part in rows.items()}
    for name, classes in groups.items():
        metrics[name] = _mean(precision[:, :, classes, 0])
        if group_ap50:
            metrics[name.replace("AP", "AP50", 1)] = _mean(precision[:1, :, classes, 0])
    return metrics


def per_category(precision: NDArray) -> list[float]:
    """AP of each category in percent, nan without ground truth."""
    return [_mean(precision[:, :, k, 0]) for k in range(precision.shape[2])]


def _mean(precision: NDArray) -> float:
    """In percent. -1 stands for no ground truth."""
    known = precision[precision > -1]
    return 100 * float(np.mean(known)) if known.size else float("nan")
