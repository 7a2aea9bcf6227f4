"""Annotation files in COCO's or LVIS's format, read without what detection on boxes does not need.

Fields that are not listed here, polygons above all, are skipped while the file is parsed: no
Python object is made of them.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode


class Category(msgspec.Struct, gc=False):
    """An entry of "categories". ``frequency`` is LVIS's "r", "c" or "f"."""

    id: Any
    name: Any
    frequency: Any = None
    isthing: Any = 1


class Picture(msgspec.Struct, gc=False):
    """An entry of "images"; the two lists are those of a federated annotation."""

    id: Any
    width: Any = None
    height: Any = None
    file_name: str | None = None
    coco_url: str | None = None
    neg_category_ids: list | None = None
    not_exhaustive_category_ids: list | None = None


class Annotation(msgspec.Struct, gc=False):
    """An entry of "annotations": ``bbox`` is [x, y, width, height] in pixels."""

    image_id: Any
    category_id: Any
    bbox: Any = None
    area: Any = None
    iscrowd: Any = 0


class AnnotationFile(msgspec.Struct):
    """What an annotation file says, as it says it. ``annotations`` is None for a test set that
    keeps them back."""

    images: list[Picture]
    categories: list[Category]
    annotations: list[Annotation] | None = None


def read_annotation_file(path: Path) -> AnnotationFile:
    """
    Raises:
        ValueError: it is not JSON, or not of the form of COCO's and LVIS's files; says where.
    """
    content = path.read_bytes()
    try:
        try:
            return msgspec.json.decode(content, type=AnnotationFile)
        except msgspec.DecodeError as error:
            if isinstance(error, msgspec.ValidationError):
                raise
            # Python writes NaN, which is not JSON: a box of it is found later, and named.
            return msgspec.convert(json.loads(content), AnnotationFile)
    except (msgspec.ValidationError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is not an annotation file in COCO's or LVIS's format: {error}. It needs "
            "images (id, width, height, file_name), categories (id, name) and annotations "
            "(image_id, category_id, bbox)."
        ) from error


def from_records(records: Iterable[dict], metadata: Metadata) -> AnnotationFile:
    """The records of a registered data set, in detectron2's format, as an annotation file.

    Category ids are those of the metadata's ``thing_dataset_id_to_contiguous_id``. Without it they
    are contiguous, from 1 if the records have LVIS's lists of ids (which then count from 1), else
    from 0.

    Raises:
        ValueError: the metadata name no categories, or a record lacks a field.
    """
    names = metadata.get("thing_classes")
    if names is None:
        raise ValueError(
            f"The data set '{metadata.name}' has no names: set "
            f"MetadataCatalog.get('{metadata.name}').thing_classes."
        )
    records = list(records)
    first = int(any("neg_category_ids" in record for record in records))
    mapping = metadata.get("thing_dataset_id_to_contiguous_id")
    if mapping is None:
        mapping = {i + first: i for i in range(len(names))}
    ids = {contiguous: category_id for category_id, contiguous in mapping.items()}
    if sorted(ids) != list(range(len(names))):
        raise ValueError(
            f"The data set '{metadata.name}' has {len(names)} names, and its "
            f"thing_dataset_id_to_contiguous_id maps to {len(ids)} classes: give each name one."
        )
    images, annotations = [], []
    for record in records:
        try:
            image_id = _plain(record["image_id"])
            lists = [
                record.get(field) for field in ("neg_category_ids", "not_exhaustive_category_ids")
            ]
            size = _plain(record["width"]), _plain(record["height"])
            images.append(Picture(image_id, *size, str(record["file_name"]), None, *lists))
            for annotation in record.get("annotations") or ():
                box = [_plain(x) for x in annotation["bbox"]]
                if len(box) == 4:  # else it is found later, and named
                    box = BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYWH_ABS)
                contiguous = _plain(annotation["category_id"])
                category = ids.get(contiguous, f"class {contiguous}")  # the latter is refused
                crowd, area = annotation.get("iscrowd", 0), annotation.get("area")
                numbers = list(box), _plain(area), _plain(crowd)
                annotations.append(Annotation(image_id, category, *numbers))
        except (NotImplementedError, AssertionError) as error:
            raise ValueError(f"'{metadata.name}' has boxes that can't be used: {error}") from error
        except KeyError as error:
            raise ValueError(
                f"A record of '{metadata.name}' has no {error}: "
                f"{record.get('file_name', record.get('image_id'))}."
            ) from error
    has_annotations = any(record.get("annotations") is not None for record in records)
    categories = [Category(ids[i], name) for i, name in enumerate(names)]
    return AnnotationFile(images, categories, annotations if has_annotations else None)


def _plain(value: Any) -> Any:
    """Python's own type for a number or string of numpy's, which VOC's ids are."""
    return value.item() if isinstance(value, np.generic) else value
