"""Data sets of the open-vocabulary protocol: novel categories never reach training."""

import difflib
from collections.abc import Iterable
from pathlib import Path

import detectron2.data.datasets  # noqa: F401  registers detectron2's own, LVIS among them
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

# Contiguous ids (LVIS category id - 1) of LVIS v1's 337 rare categories.
LVIS_V1_RARE = tuple(sorted(c["id"] - 1 for c in LVIS_CATEGORIES if c["frequency"] == "r"))

_FIX = (
    "Point the environment variable DETECTRON2_DATASETS at the folder that holds lvis/ and coco/ "
    "(see datasets/README.md)."
)


def remove_novel_categories(dataset_dicts: list[dict], novel_classes: Iterable[int]) -> list[dict]:
    """Training data as if the novel categories had never been annotated.

    Boxes of novel categories go, and so do the novel ids in ``neg_category_ids`` and
    ``not_exhaustive_category_ids``. Images are kept, also those that are left without a box:
    detectron2's ``filter_empty`` decides about them.

    Args:
        dataset_dicts: as ``detectron2.data.datasets.load_lvis_json`` returns them: contiguous
            ids in the annotations, LVIS's own (contiguous + 1) in the two lists.
        novel_classes: contiguous ids.

    Returns:
        New dicts; the given ones are not changed.
    """
    novel, lists = set(novel_classes), ("neg_category_ids", "not_exhaustive_category_ids")
    return [
        record
        | {"annotations": [a for a in record["annotations"] if a["category_id"] not in novel]}
        | {key: [i for i in record[key] if i - 1 not in novel] for key in lists}
        for record in dataset_dicts
    ]


def register_base_split(name: str, source: str, novel_classes: Iterable[int]) -> None:
    """Register ``source`` without its novel categories, under all names of the vocabulary.

    The metadata's ``class_image_count``, from which ``get_fed_loss_cls_weights`` takes the
    federated weights, is zero for novel categories.
    """
    novel = sorted(set(novel_classes))
    DatasetCatalog.register(
        name, lambda: remove_novel_categories(DatasetCatalog.get(source), novel)
    )
    metadata = {k: v for k, v in MetadataCatalog.get(source).as_dict().items() if k != "name"}
    metadata["class_image_count"] = [
        {**count, "image_count": 0 if count["id"] - 1 in novel else count["image_count"]}
        for count in metadata["class_image_count"]
    ]
    MetadataCatalog.get(name).set(**metadata, novel_classes=novel)


def novel_classes(name: str) -> list[int]:
    """Contiguous ids of the categories that a registered data set leaves out; none if it is whole.

    Raises:
        ValueError: no such data set.
    """
    _check_registered(name)
    return list(MetadataCatalog.get(name).get("novel_classes", []))


def first_images(names: str, count: int) -> list[dict]:
    """The first ``count`` images of a data set that have boxes: to overfit, or for a quick look."""
    return get_detection_dataset_dicts(names, filter_empty=True)[:count]


def check_annotations_exist(name: str) -> None:
    """Raise a FileNotFoundError that names the file and the fix if ``name`` can't be loaded."""
    _check_registered(name)
    metadata = MetadataCatalog.get(name)
    if not Path(metadata.json_file).is_file():
        fix = metadata.get("fix", _FIX)
        raise FileNotFoundError(f"Annotations of '{name}' are not at {metadata.json_file}. {fix}")


def load_dataset(name: str) -> list[dict]:
    """The records of a registered data set.

    Raises:
        ValueError: no such data set.
        FileNotFoundError: its annotations are missing; names the file and the fix.
    """
    _check_registered(name)
    try:
        return DatasetCatalog.get(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}. {MetadataCatalog.get(name).get('fix', _FIX)}") from error


def _check_registered(name: str) -> None:
    if name not in DatasetCatalog:
        close = difflib.get_close_matches(name, DatasetCatalog.list())
        raise ValueError(
            f"No data set '{name}' is registered; close names: {', '.join(close) or 'none'}."
        )


register_base_split("lvis_v1_train_base", "lvis_v1_train", LVIS_V1_RARE)
