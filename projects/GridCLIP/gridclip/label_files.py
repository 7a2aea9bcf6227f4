"""Detections as files that other programs read: JSON, CSV, COCO, YOLO and Pascal VOC."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from gridclip.files import replacing, write_json, write_json_rows
from gridclip.prediction import Prediction

WriteLabels = Callable[[Path, Prediction], None]

_BOX = ("x0", "y0", "x1", "y1")
_COLUMNS = ("name", "score", *_BOX, "novel")


def picture_record(image: str, found: Prediction) -> dict:
    """What was found in a picture, as JSON can hold it; ``image`` is what it is called."""
    height, width = found.image_size
    return {"image": image, "width": width, "height": height, "detections": found.to_dicts()}


class CocoDataset:
    """Detections in COCO's format: category ids from 1, and a "score" an annotation."""

    def __init__(self) -> None:
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def add(self, file_name: str, found: Prediction) -> None:
        """What was found in the next picture, at the picture's own size."""
        from supervision.dataset.formats import coco

        height, width = found.image_size
        size = {"width": width, "height": height}
        self.images.append({"id": len(self.images) + 1, "file_name": file_name, **size})
        made, _ = coco.detections_to_coco_annotations(
            found.to_supervision(), len(self.images), len(self.annotations) + 1
        )
        for annotation, score in zip(made, found.scores.tolist(), strict=True):
            box = [round(float(x), 2) for x in annotation["bbox"]]
            self.annotations.append({**annotation, "bbox": box, "score": round(score, 4)})

    def record(self, names: Sequence[str]) -> dict:
        """The file's content; ``names`` are those of the vocabulary."""
        from supervision.dataset.formats import coco

        categories = coco.classes_to_coco_categories(list(names))
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


@contextmanager
def json_labels(folder: Path, names: Sequence[str]) -> Iterator[WriteLabels]:
    """A file a picture: its path, width and height, and the detections as
    :meth:`Prediction.to_dicts` has them."""

    def write(picture: Path, found: Prediction) -> None:
        record = picture_record(str(picture), found)
        write_json(folder / f"{picture.stem}.json", record, indent=1)

    yield write


@contextmanager
def csv_labels(folder: Path, names: Sequence[str]) -> Iterator[WriteLabels]:
    """``detections.csv``, a row a detection."""
    path = folder / "detections.csv"
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, ("image", *_COLUMNS))
        rows.writeheader()

        def write(picture: Path, found: Prediction) -> None:
            rows.writerows({"image": picture, **_flat(d)} for d in found.to_dicts())

        yield write


@contextmanager
def coco_labels(folder: Path, names: Sequence[str]) -> Iterator[WriteLabels]:
    """``annotations.json``, a :class:`CocoDataset`."""
    dataset = CocoDataset()

    def write(picture: Path, found: Prediction) -> None:
        dataset.add(picture.name, found)

    yield write
    write_json(folder / "annotations.json", dataset.record(names))


@contextmanager
def yolo_labels(folder: Path, names: Sequence[str]) -> Iterator[WriteLabels]:
    """``labels/<picture>.txt`` and ``data.yaml``, which has the names. YOLO has no scores."""
    from supervision.dataset.formats import yolo

    def write(picture: Path, found: Prediction) -> None:
        lines = yolo.detections_to_yolo_annotations(found.to_supervision(), found.image_size)
        _write_text(folder / "labels" / f"{picture.stem}.txt", "".join(f"{x}\n" for x in lines))

    with replacing(folder / "data.yaml") as partial:
        yolo.save_data_yaml(str(partial), list(names))
    yield write


@contextmanager
def voc_labels(folder: Path, names: Sequence[str]) -> Iterator[WriteLabels]:
    """``annotations/<picture>.xml``, boxes in whole pixels. Pascal VOC has no scores."""
    from supervision.dataset.formats import pascal_voc

    def write(picture: Path, found: Prediction) -> None:
        text = pascal_voc.detections_to_pascal_voc(
            found.to_supervision(), list(names), picture.name, (*found.image_size, 3)
        )
        _write_text(folder / "annotations" / f"{picture.stem}.xml", text)

    yield write


class Format(NamedTuple):
    """How detections in pictures are written.

    Attributes:
        open: is given the folder and the names of the vocabulary, and gives a function that writes
            what was found in a picture. Files of all pictures are there once the context is left.
        files: their names in the folder: "{stem}" stands for the picture's; others are of all.
    """

    open: Callable[[Path, Sequence[str]], AbstractContextManager[WriteLabels]]
    files: tuple[str, ...]


# supervision's DetectionDataset would read every picture anew for its size, by its own rules of
# which way is up. Its functions for a picture take the size that the detector saw.
FORMATS = {
    "json": Format(json_labels, ("{stem}.json",)),
    "csv": Format(csv_labels, ("detections.csv",)),
    "coco": Format(coco_labels, ("annotations.json",)),
    "yolo": Format(yolo_labels, ("labels/{stem}.txt", "data.yaml")),
    "voc": Format(voc_labels, ("annotations/{stem}.xml",)),
}
VIDEO_FORMATS = ("json", "csv")


def write_video_labels(path: Path, rows: Iterable[dict]) -> None:
    """Write the detections of a video, one row a detection, as they come.

    Args:
        path: ends in .json or .csv.
        rows: with "frame" and "time" in seconds, and what :meth:`Prediction.to_dicts` has.
    """
    if path.suffix == ".json":
        write_json_rows(path, rows)
        return
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ("frame", "time", *_COLUMNS, "track"))
        table.writeheader()
        table.writerows(map(_flat, rows))


def _flat(detection: dict) -> dict:
    """A detection with a column for each side of its box."""
    sides = dict(zip(_BOX, detection["box"], strict=True))
    return {**{key: value for key, value in detection.items() if key != "box"}, **sides}


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
