"""A data set's images as detectron2's records, each made when it is asked for.

A list of dictionaries would take ten times the memory of the arrays behind them, in every process.
"""

from collections.abc import Sequence
from typing import overload

import numpy as np
from detectron2.structures import BoxMode
from numpy.typing import NDArray

from .annotations import Ragged
from .description import DatasetDescription


class Records(Sequence[dict]):
    """Images of a data set in detectron2's format: ``file_name``, ``image_id``, ``width``,
    ``height``, ``annotations`` (absent without boxes), and of federated data
    ``negative_classes`` and ``not_exhaustive_classes``, (n,) int64. All ids of categories are
    contiguous."""

    def __init__(
        self,
        data: DatasetDescription,
        indices: NDArray,
        boxes: NDArray | None,
        negatives: Ragged | None,
        not_exhaustive: Ragged | None,
    ):
        """
        Args:
            indices: (n,) of the images.
            boxes: (M,) bool, which boxes count; None: the records have none.
            negatives, not_exhaustive: of all images, in place of the data set's.
        """
        self.data, self.indices, self.boxes = data, indices, boxes
        self.negatives, self.not_exhaustive = negatives, not_exhaustive

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, item: int) -> dict: ...
    @overload
    def __getitem__(self, item: slice) -> "Records": ...

    def __getitem__(self, item: int | slice) -> "dict | Records":
        if isinstance(item, slice):
            parts = self.boxes, self.negatives, self.not_exhaustive
            return Records(self.data, self.indices[item], *parts)
        index = int(self.indices[item])
        annotations = self.data.annotations
        width, height = annotations.sizes[index].tolist()
        record = {
            "file_name": self.data.file_name(index),
            "image_id": annotations.image_ids[index],
            "width": width,
            "height": height,
        }
        if self.boxes is not None:
            record["annotations"] = self._annotations(index, self.boxes)
        if self.negatives is not None:
            record["negative_classes"] = self.negatives[index]
        if self.not_exhaustive is not None:
            record["not_exhaustive_classes"] = self.not_exhaustive[index]
        return record

    def outlines(self) -> list[dict]:
        """What a sampler asks of all images, without making their records: "width", "height", and
        "annotations", one with the "category_id" of each category that has a box there."""
        annotations, count = self.data.annotations, len(self.data.names)
        pairs = annotations.images * count + annotations.classes
        images, classes = np.divmod(np.unique(pairs[self.boxes]), count)
        bounds = (np.searchsorted(images, self.indices, side) for side in ("left", "right"))
        labels = [{"category_id": i} for i in range(count)]  # shared by all images
        present = [labels[i] for i in classes.tolist()]
        sizes = annotations.sizes[self.indices].tolist()
        return [
            {"width": width, "height": height, "annotations": present[first:end]}
            for (width, height), first, end in zip(sizes, *bounds, strict=True)
        ]

    def _annotations(self, index: int, boxes: NDArray) -> list[dict]:
        annotations, own = self.data.annotations, self.data.annotations.of_image(index)
        rows = zip(
            annotations.boxes[own].tolist(),
            annotations.classes[own].tolist(),
            annotations.crowds[own].tolist(),
            boxes[own].tolist(),
            strict=True,
        )
        return [
            {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": c, "iscrowd": int(crowd)}
            for box, c, crowd, counts in rows
            if counts
        ]


def all_records(
    data: DatasetDescription,
    *,
    filter_empty: bool = False,
    count: int | None = None,
    boxes: bool = True,
) -> Records:
    """Images with all their boxes, for evaluation and for what CLIP says of the images.

    Args:
        filter_empty, count: as in :func:`training_records`.
        boxes: False for what looks at the pictures alone. A test set may have none anyway.
    """
    annotations = data.annotations
    everything = np.ones(len(annotations.boxes), dtype=bool)
    indices = _indices(data, everything, filter_empty)[:count]
    counted = everything if boxes and annotations.available else None
    return Records(data, indices, counted, annotations.negatives, annotations.not_exhaustive)


def training_records(
    data: DatasetDescription, *, filter_empty: bool = True, count: int | None = None
) -> Records:
    """Training data as if the novel categories had never been annotated.

    No record has a box of a novel category or names one among its negatives. Where the annotation
    is complete and there is a split, the negatives are all base categories: without a list, a
    record says that every category of the vocabulary which has no box there is absent.

    Args:
        filter_empty: leave out images without a box (of more than a crowd).
        count: the first images only: to overfit, or for a quick look.

    Raises:
        ValueError: there is nothing to train on.
    """
    annotations, novel = data.annotations, data.novel_classes or ()
    if not annotations.available:
        raise ValueError(f"{data.source} has no annotations: there is nothing to train on.")
    if len(novel) == len(data.names):
        raise ValueError(f"All categories of {data.source} are novel: nothing to train on.")
    base = ~np.isin(annotations.classes, novel)
    indices = _indices(data, base, filter_empty)
    negatives, not_exhaustive = (
        None if lists is None else lists.without(novel)
        for lists in (annotations.negatives, annotations.not_exhaustive)
    )
    if negatives is None and novel:
        negatives = Ragged.same(data.base_classes, len(data))
    if not len(indices):
        raise ValueError(f"No picture of {data.source} has a box of a base category.")
    return Records(data, indices[:count], base, negatives, not_exhaustive)


def _indices(data: DatasetDescription, boxes: NDArray, filter_empty: bool) -> NDArray:
    """Of all images, or of those with one of the boxes."""
    if not filter_empty:
        return np.arange(len(data))
    return np.unique(data.annotations.images[boxes & ~data.annotations.crowds])
