"""What trainings and evaluations left in their folders, read back to be looked at side by side."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gridclip.data import DatasetDescription, open_dataset

from .detections import Detection, Detections
from .results import read_results


@dataclass(frozen=True, eq=False)
class Run:
    """What one evaluation left.

    Attributes:
        label: tells it from the runs beside it.
        source: of ``record``, a results.json.
        record: as :func:`read_results` returns it.
        folder: with the detections; None if a results file alone was given.
    """

    label: str
    source: Path
    record: dict[str, Any]
    folder: Path | None

    @property
    def metrics(self) -> dict[str, float]:
        """In percent."""
        return self.record["metrics"]["bbox"]

    @property
    def metrics_json(self) -> Path | None:
        """The losses of its training, where they are there."""
        return self._file("metrics.json")

    def per_category(self) -> dict[str, float | None] | None:
        """AP by name, None without ground truth; None altogether where the file is absent."""
        path = self._file("per_category_ap.json")
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))

    def _file(self, name: str) -> Path | None:
        path = None if self.folder is None else self.folder / name
        return path if path is not None and path.is_file() else None


def open_runs(paths: Sequence[str | os.PathLike]) -> list[Run]:
    """Read the results of runs that may stand side by side.

    Args:
        paths: of each run its folder, or its results file alone.

    Raises:
        FileNotFoundError: there are no results.
        ValueError: they can't be read, one is given twice, or two are of different data, splits or
            rules; names both sides.
    """
    sources = [path / "results.json" if path.is_dir() else path for path in map(Path, paths)]
    for source in sources:
        if sum(source.resolve() == other.resolve() for other in sources) > 1:
            raise ValueError(f"{source} is given twice: give each run once.")
    labels = _labels([source.resolve() for source in sources])
    runs = [
        Run(label, source, read_results(source), source.parent if Path(path).is_dir() else None)
        for label, source, path in zip(labels, sources, paths, strict=True)
    ]
    for run in runs:
        if "bbox" not in run.record["metrics"]:
            raise ValueError(f"{run.source} has no metrics of boxes (metrics.bbox).")
        _check_comparable(runs[0], run)
    return runs


def read_detections(folder: Path) -> list[Detection]:
    """The newest that an evaluation left.

    Raises:
        FileNotFoundError: there are none.
        ValueError: the file is damaged; names it.
    """
    if not (written := sorted(folder.glob("*_instances_results.json"))):
        raise FileNotFoundError(
            f"No *_instances_results.json in {folder}: evaluate first, with this output folder."
        )
    path = max(written, key=lambda path: path.stat().st_mtime)
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Detection])
    except msgspec.DecodeError as error:
        raise ValueError(
            f"{path} is not a list of detections in COCO's format: {error}."
        ) from error


def open_evaluated(run: Run) -> DatasetDescription:
    """The data set that a run was evaluated on.

    Raises:
        FileNotFoundError: it is not there any more.
        ValueError: the results do not say where it is, or it has changed since.
    """
    if (arguments := run.record.get("data")) is None:
        raise ValueError(
            f"{run.source} is older and does not say where its data are: evaluate anew."
        )
    data = open_dataset(**arguments)
    evaluated = run.record["protocol"]["dataset_sha256"]
    if data.sha256 != evaluated:
        raise ValueError(
            f"{data.source} has changed since {run.source} was written: its annotations have the "
            f"digest {data.sha256[:8]}..., the evaluated ones {evaluated[:8]}.... Evaluate anew."
        )
    return data


def evaluated_images(
    run: Run, data: DatasetDescription, found: Sequence[Detection]
) -> set[int | str]:
    """Ids of the images. Of a part of the data set the detections tell which ones."""
    if run.record["protocol"]["images"] < len(data):
        return {detection.image_id for detection in found}
    return set(data.annotations.image_ids)


def as_arrays(found: Sequence[Detection], data: DatasetDescription, source: Path) -> Detections:
    """With the data set's own indices of images and of categories.

    Raises:
        ValueError: a detection is of an image or a category that the data set does not have.
    """
    images = {image_id: i for i, image_id in enumerate(data.annotations.image_ids)}
    classes = {category_id: i for i, category_id in enumerate(data.category_ids)}
    try:
        return Detections(
            np.fromiter((images[d.image_id] for d in found), np.int64, len(found)),
            np.fromiter((classes[d.category_id] for d in found), np.int64, len(found)),
            np.array([d.bbox for d in found], dtype=np.float64).reshape(-1, 4),
            np.fromiter((d.score for d in found), np.float64, len(found)),
        )
    except KeyError as error:
        raise ValueError(
            f"The detections in {source} are of another data set: {data.source} has no image or "
            f"category {error}."
        ) from error


def _labels(sources: Sequence[Path]) -> list[str]:
    """The parts of the paths in which they differ; of one path its last folder."""
    if len(sources) == 1:
        only = sources[0]
        return [only.parent.name if only.name == "results.json" else only.stem]
    parts = [list(source.with_suffix("").parts) for source in sources]
    while len({tuple(p[-1:]) for p in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [p[:-1] for p in parts]
    while len({tuple(p[:1]) for p in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [p[1:] for p in parts]
    return ["/".join(p) for p in parts]


def _check_comparable(first: Run, run: Run) -> None:
    """Raise ValueError if the AP of the two mean different things."""

    def meaning(run: Run) -> dict[str, Any]:
        protocol = run.record["protocol"]
        return {
            "data set": f"{protocol['dataset']}, digest {protocol['dataset_sha256'][:8]}...",
            "number of images": protocol["images"],
            "novel categories": (run.record.get("data") or {}).get(
                "novel", protocol["novel_classes"]
            ),
            "evaluator": protocol["evaluator"].split()[0],  # of any version
            "rule of AP": protocol["ap"],
        }

    ours, theirs = meaning(first), meaning(run)
    # The digest tells: two names of one file are the same data.
    shas = [r.record["protocol"]["dataset_sha256"] for r in (first, run)]
    differing = [
        k for k in ours if ours[k] != theirs[k] and (k != "data set" or len(set(shas)) > 1)
    ]
    if differing:
        what = differing[0]
        raise ValueError(
            f"Not comparable: the {what} of {first.source} is {_short(ours[what])}, that of "
            f"{run.source} is {_short(theirs[what])}. Look at them one by one."
        )


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return f"{len(value)} ({', '.join(value[:2])}{', ...' if len(value) > 2 else ''})"
