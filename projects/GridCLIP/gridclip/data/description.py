"""The one description of a data set, which everything asks that has to know the data.

Mapper, loader, federated weights, vocabulary, stores, evaluator and results read it. It is made of
a file in COCO's or LVIS's format and a folder of pictures, or of a data set that is registered in
detectron2's catalogs.
"""

import difflib
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import detectron2.data.datasets  # noqa: F401  registers detectron2's own, LVIS among them
import msgspec
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from gridclip.clip_weights import sha256_of_file
from gridclip.text.names import category_name, load_categories

from .annotation_file import AnnotationFile, Picture, from_records, read_annotation_file
from .annotations import Annotations, build_annotations, check_categories, in_folder
from .findings import DatasetError, Findings

METRICS = ("coco", "lvis")

_HINT = (
    "Point the environment variable DETECTRON2_DATASETS at the folder that holds the data "
    "(see datasets/README.md)."
)
# Functions of these modules, registered with a "json_file", read just that file.
_JSON_LOADERS = ("detectron2.data.datasets.coco", "detectron2.data.datasets.lvis")


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
        pairs = np.stack([self.annotations.images, self.annotations.classes])
        return np.bincount(np.unique(pairs, axis=1)[1], minlength=len(self.names))

    def describe(self) -> str:
        """One line on what it is."""
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

    @cached_property
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


def open_dataset(
    *,
    json: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    dataset: str | None = None,
    novel: str | Sequence[str] | None = None,
    leave_out: Sequence[str | int] = (),
    only: str | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    metrics: str | None = None,
    hint: str = _HINT,
) -> DatasetDescription:
    """Describe a data set. In one process, its file is read once.

    Args:
        json: an annotation file in COCO's or LVIS's format. It is federated if its images have
            LVIS's "neg_category_ids".
        images: the folder of its pictures. They are found by "file_name", those of a federated
            file by the last two parts of "coco_url", as in detectron2.
        dataset: in place of the two, a name in detectron2's DatasetCatalog.
        novel: categories that training leaves out: their names; a file of names; "rare" for those
            that the file calls "r"; None for none.
        leave_out: names, or ids, of categories to be treated as if they were not in the file.
        only: a folder, such as "val2017": the images are those that "coco_url" or "file_name" puts
            into it. LVIS's minival is the part of LVIS val in COCO's val2017.
        groups: further groups of categories whose AP is reported: names of the categories.
        metrics: "coco" or "lvis". None: LVIS's for a federated data set, else COCO's.
        hint: what to do if the file is missing.

    Raises:
        ValueError: arguments that do not fit, or a DatasetError: the file can't be used.
        FileNotFoundError: the file is missing.
    """
    if (dataset is None) == (json is None) or (json is None) != (images is None):
        raise ValueError(
            "no data set: give a file and a folder, json=FILE and images=FOLDER, or the name of a "
            "registered data set, dataset=NAME."
        )
    if metrics not in (None, *METRICS):
        raise ValueError(f"metrics is '{metrics}': take one of {', '.join(METRICS)}.")
    if dataset is not None:
        _check_registered(dataset)
        metadata, load = MetadataCatalog.get(dataset), DatasetCatalog[dataset]
        if getattr(load, "__module__", None) in _JSON_LOADERS and metadata.get("json_file"):
            path, images = metadata.json_file, metadata.image_root
            read = _read_json(dataset, path, images, hint, *_stamp(path, dataset, hint))
        else:
            try:
                read = _read_records(dataset, load)
            except FileNotFoundError as error:
                raise FileNotFoundError(_missing(dataset, error.filename, hint)) from error
    else:
        name = Path(str(json)).name
        read = _read_json(name, str(json), str(images), hint, *_stamp(str(json), name, hint))
    key = None if groups is None else tuple((k, tuple(v)) for k, v in groups.items())
    chosen = novel if novel is None or isinstance(novel, str) else tuple(novel)
    return _describe(read, chosen, tuple(leave_out), only or None, key, metrics)


@dataclass(frozen=True, eq=False)
class _Read:
    """An annotation file and where it comes from."""

    name: str
    source: str
    root: str
    arguments: Mapping[str, str]
    sha256: str
    file: AnnotationFile


def _stamp(path: str, name: str, hint: str) -> tuple[int, int]:
    """Changes when the file does."""
    if not Path(path).is_file():
        raise FileNotFoundError(_missing(name, path, hint))
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


def _missing(name: str, path: str, hint: str) -> str:
    return f"Annotations of '{name}' are not at {path}. {hint}"


@lru_cache(maxsize=4)
def _read_json(name: str, path: str, images: str, hint: str, *stamp: int) -> _Read:
    where = {"json": path, "images": images}
    return _Read(name, path, images, where, sha256_of_file(path), read_annotation_file(Path(path)))


@lru_cache(maxsize=4)
def _read_records(name: str, load: Callable[[], list[dict]]) -> _Read:
    file = from_records(load(), MetadataCatalog.get(name))
    digest = hashlib.sha256(msgspec.json.encode(file)).hexdigest()
    return _Read(name, f"the registered data set '{name}'", "", {"dataset": name}, digest, file)


@lru_cache(maxsize=8)
def _describe(
    read: _Read,
    novel: str | tuple[str, ...] | None,
    leave_out: tuple[str | int, ...],
    only: str | None,
    groups: tuple[tuple[str, tuple[str, ...]], ...] | None,
    metrics: str | None,
) -> DatasetDescription:
    found = Findings(read.source)
    file = read.file if only is None else in_folder(read.file, only, found)
    categories = check_categories(file, leave_out, found)
    names = tuple(category_name(c.name) for c in categories)
    frequencies = tuple(c.frequency for c in categories if c.frequency is not None)
    rule = _file_rule(read.root, file.images)
    annotations = build_annotations(file, categories, rule, found)
    if metrics is None:
        metrics = "coco" if annotations.negatives is None else "lvis"
    novel_classes = _resolve_novel(novel, names, frequencies, read.source)
    return DatasetDescription(
        name=read.name if only is None else f"{read.name}, {only} only",
        source=read.source,
        root=read.root,
        names=names,
        category_ids=tuple(c.id for c in categories),
        frequencies=frequencies,
        novel_classes=novel_classes,
        groups={k: classes_of(v, names, f"groups.{k}", read.source) for k, v in groups or ()},
        metrics=metrics,
        arguments={
            **read.arguments,
            "novel": None if novel_classes is None else [names[i] for i in novel_classes],
            "leave_out": list(leave_out),
            "only": only,
        },
        annotations=annotations,
        sha256=read.sha256,
        findings=found,
    )


def _resolve_novel(
    novel: str | tuple[str, ...] | None,
    names: Sequence[str],
    frequencies: Sequence[str],
    source: str,
) -> tuple[int, ...] | None:
    if novel is None:
        return None
    if novel == "rare":
        if not frequencies:
            raise DatasetError(
                f'novel="rare", but the categories of {source} have no "frequency": name the '
                "novel ones, novel='[zebra]'."
            )
        return tuple(i for i, frequency in enumerate(frequencies) if frequency == "r")
    if isinstance(novel, str):
        if not Path(novel).is_file():
            raise ValueError(
                f"novel is '{novel}', which is neither a file of names nor \"rare\": write names "
                f"as a list, novel='[{novel}]'."
            )
        novel = tuple(category.name for category in load_categories(novel))
    return classes_of(novel, names, "novel", source)


def classes_of(
    wanted: Sequence[str], names: Sequence[str], what: str, source: str
) -> tuple[int, ...]:
    """Contiguous ids, ascending, of categories by their names. Raises DatasetError for a name that
    is not there, with the nearest one."""
    index = {name: i for i, name in enumerate(names)}
    for name in wanted:
        if category_name(str(name)) not in index:
            close = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"the first is '{names[0]}'."
            raise DatasetError(
                f"{what} has '{name}', which is none of the {len(names)} categories of {source}: "
                f"{hint}"
            )
    return tuple(sorted({index[category_name(str(name))] for name in wanted}))


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


def _file_rule(root: str, pictures: list[Picture]) -> Callable[[Picture], str | None]:
    """How a picture's file is named: the rule that finds the first one, else the usual one."""

    def by_url(picture: Picture) -> str | None:
        return picture.coco_url and "/".join(picture.coco_url.split("/")[-2:])

    def by_file_name(picture: Picture) -> str | None:
        return picture.file_name

    rules: list[Callable[[Picture], str | None]] = [by_file_name, by_url]
    if any(p.neg_category_ids is not None for p in pictures[:1]):
        rules.reverse()
    for rule in rules:
        if pictures and (name := rule(pictures[0])):
            if os.path.isfile(os.path.join(root, name)):
                return rule
    complete = (r for r in rules if pictures and r(pictures[0]))
    return next(complete, rules[0])


def _check_registered(name: str) -> None:
    if name not in DatasetCatalog:
        close = difflib.get_close_matches(name, DatasetCatalog.list())
        raise ValueError(
            f"No data set '{name}' is registered; close names: {', '.join(close) or 'none'}."
        )


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
