"""The one description of a data set, which everything asks that has to know the data.

Mapper, loader, federated weights, vocabulary, stores, evaluator and results read it.
:func:`gridclip.data.open_dataset` makes it.
"""

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from .annotations import Annotations
from .findings import Findings

# By metrics, how many detections count: the best ones of an image.
MAX_DETS = {"coco": 100, "lvis": 300}


@dataclass(frozen=True, eq=False)
class DatasetDescription:
    """A data set: C categories, novel ones among them, N pictures and their boxes.

    Class ids are contiguous: a category's place in ``names``. The ids of the file occur in
    ``category_ids`` alone.

    Attributes:
        name: that of the file, or the registered one.
        source: where it comes from, for messages.
        root: the folder that ``annotations.file_names`` are in.
        names: (C,), unique, in the order of the file's ids.
        category_ids: (C,), the file's.
        frequencies: (C,), LVIS's "r", "c" and "f"; empty if the file has none.
        novel_classes: ids of the categories that training leaves out, ascending; None if the data
            set has no such split.
        groups: further groups of categories with an AP of their own: name to ids.
        metrics: "coco" or "lvis", what its detections are evaluated by.
        arguments: those of :func:`open_dataset` that describe the same data set, as JSON.
        annotations: pictures and boxes.
        sha256: digest of the annotations.
        findings: the report on what was found in them.
    """

    name: str
    source: str
    root: str
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    frequencies: tuple[str, ...]
    novel_classes: tuple[int, ...] | None
    groups: Mapping[str, tuple[int, ...]]
    metrics: str
    arguments: Mapping[str, Any]
    annotations: Annotations
    sha256: str
    findings: Findings

    def __len__(self) -> int:
        return len(self.annotations.image_ids)

    @property
    def federated(self) -> bool:
        """Whether an image tells only of some categories if they are in it, as in LVIS."""
        return self.annotations.negatives is not None

    @property
    def base_classes(self) -> list[int]:
        """Ids of the categories that are not novel."""
        novel = set(self.novel_classes or ())
        return [i for i in range(len(self.names)) if i not in novel]

    @cached_property
    def image_counts(self) -> NDArray:
        """(C,) int64: the images in which a category has a box."""
        count = len(self.names)
        pairs = np.unique(self.annotations.images * count + self.annotations.classes)
        return np.bincount(pairs % count, minlength=count)

    def describe(self) -> str:
        """One line on what it is."""
        if not self.annotations.available:
            return f"{self.source}: {len(self):,} pictures, {len(self.names)} categories, no boxes"
        kind = "federated" if self.federated else "complete"
        novel = "" if self.novel_classes is None else f", {len(self.novel_classes)} of them novel"
        return (
            f"{self.source}: {len(self):,} pictures, {len(self.annotations.boxes):,} boxes, "
            f"{len(self.names)} categories{novel}; the annotation is {kind}, evaluated by "
            f"{self.metrics.upper()}'s metrics"
        )

    def file_name(self, index: int) -> str:
        """The path of an image's file."""
        return os.path.join(self.root, self.annotations.file_names[index])

    @property
    def missing_pictures(self) -> list[str]:
        """Paths of the pictures that are not there, as the folders' listings tell."""
        by_folder = defaultdict(list)
        for index in range(len(self)):
            path = self.file_name(index)
            by_folder[os.path.dirname(path)].append(path)
        missing = []
        for folder, paths in by_folder.items():
            there = {entry.name for entry in os.scandir(folder or ".")} if _is_dir(folder) else ()
            missing += [path for path in paths if os.path.basename(path) not in there]
        return missing

    def check_pictures(self) -> None:
        """Raise a FileNotFoundError that names the first picture that is missing, if one is."""
        if missing := self.missing_pictures:
            raise FileNotFoundError(
                f"{len(missing):,} of the {len(self):,} pictures of {self.source} are missing, the "
                f"first {missing[0]}. {_near(missing[0], self.root)}"
            )


def federated_weights(data: DatasetDescription, power: float = 0.5) -> Tensor | None:
    """How likely each category is sampled as a negative: images ** power, of novel ones zero.

    Returns:
        (C,) float32; None if the data set is not federated: then all negatives are known.
    """
    if not data.federated:
        return None
    weights = from_numpy(data.image_counts.astype(np.float32)) ** power
    weights[list(data.novel_classes or ())] = 0
    return weights


def novel_classes(data: DatasetDescription) -> list[int]:
    """Contiguous ids of the categories that training leaves out; none if there is no split."""
    return list(data.novel_classes or ())


def _is_dir(folder: str) -> bool:
    return os.path.isdir(folder or ".")


def _near(path: str, root: str) -> str:
    """What to do about a missing picture."""
    if not _is_dir(root):
        return f"There is no folder {root}."
    base = os.path.basename(path.replace("\\", "/"))
    for folder, _, files in os.walk(root):
        if base in files:
            return f"There is one at {os.path.join(folder, base)}: is images= the right folder?"
    return "scripts/check_dataset.py lists them all."
