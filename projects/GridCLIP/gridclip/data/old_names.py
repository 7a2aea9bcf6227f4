"""Old names in the annotation of a fine-tuning: what the detector finds of them before it."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.layers import nms
from detectron2.structures import Boxes, Instances, pairwise_iou

from gridclip.text.names import category_name

_SAME_OBJECT = 0.5  # IoU


def add_old_names(
    dataset: dict[str, Any],
    names: Sequence[str],
    detect: Callable[[dict[str, Any]], Instances],
    *,
    sure: float = 0.4,
    possible: float = 0.1,
) -> dict[str, Any]:
    """A federated annotation file that also tells of a detector's own names, by self-training.

    In each picture an old name is a box where it is found with a score of at least ``sure``, absent
    if all its scores are below ``possible``, and unknown otherwise. It is also unknown away from
    its boxes, as the detector may have missed some. An object that has a box in the file gets no
    second one. Names that have boxes in the file stay as they are annotated.

    Args:
        dataset: content of a file in COCO's or LVIS's format; it stays as it is.
        names: (C,), the detector's.
        detect: of an entry of "images" the detections, ``pred_classes`` as in ``names``.

    Raises:
        ValueError: the scores are not 0 <= possible <= sure <= 1.
    """
    if not 0 <= possible <= sure <= 1:
        raise ValueError(f"possible={possible} and sure={sure}: 0 <= possible <= sure <= 1.")
    names = [category_name(name) for name in names]
    listed = {category_name(c["name"]): c["id"] for c in dataset["categories"]}
    annotated = {a["category_id"] for a in dataset["annotations"]}
    unlisted = [name for name in names if name not in listed]
    ids = listed | dict(
        zip(unlisted, itertools.count(max([0, *listed.values()]) + 1), strict=False)
    )
    old = {c: ids[name] for c, name in enumerate(names) if ids[name] not in annotated}
    boxes_of: dict[Any, list[dict]] = {image["id"]: [] for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        boxes_of[annotation["image_id"]].append(annotation)
    images, boxes = [], []
    for image in dataset["images"]:
        own, found = boxes_of[image["id"]], detect(image)
        found = found[[i for i, c in enumerate(found.pred_classes.tolist()) if c in old]]
        objects = found[_sure_objects(found, own, sure)]
        sure_ids = [old[c] for c in objects.pred_classes.tolist()]
        for (x0, y0, x1, y1), i in zip(objects.pred_boxes.tensor.tolist(), sure_ids, strict=True):
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": i}
            boxes.append({"image_id": image["id"], **box})
        seen = {old[c] for c in found.pred_classes[found.scores >= possible].tolist()}
        absent = image.get("neg_category_ids", annotated - {a["category_id"] for a in own})
        absent = {*absent, *(set(old.values()) - seen)} - set(sure_ids)
        some_missed = {*image.get("not_exhaustive_category_ids", ()), *sure_ids}
        lists = {"neg_category_ids": absent, "not_exhaustive_category_ids": some_missed}
        images.append(image | {name: sorted(values) for name, values in lists.items()})
    first = max([0, *(a["id"] for a in dataset["annotations"])]) + 1
    return {
        **dataset,
        "images": images,
        "categories": dataset["categories"] + [{"id": ids[n], "name": n} for n in unlisted],
        "annotations": dataset["annotations"]
        + [{"id": number, **box} for number, box in enumerate(boxes, start=first)],
    }


def _sure_objects(found: Instances, annotated: list[dict], sure: float) -> list[int]:
    """Indices of the best name of each object that is found surely and has no box yet."""
    boxes = found.pred_boxes
    kept = nms(boxes.tensor, found.scores, _SAME_OBJECT).tolist()
    xywh = torch.tensor([a["bbox"] for a in annotated], dtype=torch.float32).reshape(-1, 4)
    xyxy = Boxes(torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1))
    taken = (pairwise_iou(boxes, xyxy) >= _SAME_OBJECT).any(dim=1)
    return [i for i in kept if found.scores[i] >= sure and not taken[i]]
