"""A page on what one or several evaluations found, side by side."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import asdict

from gridclip.data import DatasetDescription, all_records
from gridclip.page import Cell, Content, Figure, Section, Table, write_page

from .charts import (
    colors_of,
    groups_of,
    plot_confusions,
    plot_curves,
    plot_differences,
    plot_groups,
)
from .confusion import Confusions, count_confusions, most_confused, most_frequent
from .pictures import draw_detections
from .runs import (
    Detection,
    Run,
    as_arrays,
    evaluated_images,
    open_evaluated,
    open_runs,
    read_detections,
)

_MIN_IOU = 0.5
_MIN_SCORE = 0.3
_DIFFERENCES = 10  # categories each way
_PAIRS = 20  # the most frequent confusions
_ROWS = 14  # categories of the heat map
_ORIGIN = {
    "weights": "weights evaluated, or started from",
    "iterations": "training steps",
    "seed": "seed",
    "commit": "commit",
    "processor": "processor of the evaluation",
    "date": "evaluated",
}


def write_report(
    paths: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    score_threshold: float | None = None,
    max_images: int = 6,
) -> Path:
    """Write ``index.html`` and, beside it, its charts as PNG and its pictures as JPEG files.

    Args:
        paths: of each run its output folder; or its results file alone, of which the AP is shown.
        output: the folder, which need not be there.
        score_threshold: the least score that counts. None: 0.3 for confusions, and in pictures the
            best detections, as many as there are objects, but at least 5.
        max_images: the most that are drawn of a run.

    Returns:
        The page.

    Raises:
        FileNotFoundError: results, detections, annotations or pictures are missing.
        ValueError: the runs are not comparable, or a file is damaged or of other data.
    """
    runs, output = open_runs(paths), Path(output)
    found = _Found.of([run for run in runs if run.folder is not None])
    sections: list[Section | None] = [_accuracy(runs, output), _training(runs, output)]
    if found is not None:
        sections += [
            _categories(found, colors_of([run.label for run in runs]), output),
            _confusions(found, output, _MIN_SCORE if score_threshold is None else score_threshold),
            _pictures(found, output, score_threshold, max_images),
        ]
    sections.append(_origin(runs))
    page = output / "index.html"
    title = "Results of " + " and ".join(run.label for run in runs)
    write_page(page, title, _lead(runs[0].record["protocol"]), [x for x in sections if x])
    return page


@dataclass(frozen=True, eq=False)
class _Found:
    """What the runs found in the same pictures.

    Attributes:
        runs: whose folders were given.
        data: that they were evaluated on.
        images: ids of the pictures that all of them were evaluated on.
        detections: by the runs' labels.
    """

    runs: list[Run]
    data: DatasetDescription
    images: set[int | str]
    detections: dict[str, list[Detection]]

    @classmethod
    def of(cls, runs: list[Run]) -> "_Found | None":
        """None without runs."""
        if not runs:
            return None
        data = [open_evaluated(run) for run in runs][0]  # all have its digest
        data.check_pictures()
        detections = {run.label: read_detections(run.folder) for run in runs if run.folder}
        images = [evaluated_images(run, data, detections[run.label]) for run in runs]
        return cls(runs, data, set.intersection(*images), detections)

    def name(self, category: int) -> str:
        """With a star if it is novel."""
        return self.data.names[category] + " ★" * (category in (self.data.novel_classes or ()))


def _lead(protocol: Mapping) -> str:
    text = f"{protocol['images']:,} pictures of {protocol['dataset']}"
    if "categories" in protocol:
        text += f", {protocol['categories']:,} categories"
    if protocol["novel_classes"]:
        text += f", {protocol['novel_classes']:,} novel categories (★)"
    return f"{text}."


def _accuracy(runs: Sequence[Run], output: Path) -> Section:
    png = output / "ap_by_group.png"
    metrics = {run.label: run.metrics for run in runs}
    plot_groups(metrics, colors_of(list(metrics)), png)
    names = list(dict.fromkeys(name for run in metrics.values() for name in run))
    shown = {name for run in metrics.values() for name in groups_of(run)}
    caption = "AP of all categories and of each group of them."
    if "APr" in shown:
        caption += " APr, APc and APf: rare, common and frequent categories, as LVIS calls them."
    if "AP_novel" in shown:
        caption += " AP_novel: categories that no training picture was annotated with."
        caption += " AP_base: all others."
    if any(math.isnan(run.get(name, math.nan)) for run in metrics.values() for name in shown):
        caption += " –: there is no object of such a category, or it was not measured."
    text = (
        "Box AP in percent, the mean over IoU thresholds from 0.5 to 0.95; "
        f"{runs[0].record['protocol']['ap']}."
    )
    if len(runs) > 1:
        text += " Each is one run: another seed of the same training gives another AP."
    rows: list[list[Cell]] = [
        [name, *(run.get(name) for run in metrics.values())] for name in names
    ]
    return Section(
        "Accuracy",
        [text, Figure(png, caption), Table(["metric", *metrics], rows, summary="All metrics")],
    )


def _training(runs: Sequence[Run], output: Path) -> Section | None:
    curves = {run.label: path for run in runs if (path := run.metrics_json) is not None}
    contents: list[Content] = []
    if curves:
        png = output / "losses.png"
        plot_curves(curves, colors_of([run.label for run in runs]), png)
        caption = "Losses and learning rate, as metrics.json recorded them."
        if len(curves) > 1:
            caption += " Losses of different methods can't be compared: only their course can."
        contents.append(Figure(png, caption))
    if without := [run.label for run in runs if run.folder and run.label not in curves]:
        contents.append(f"Not recorded (there is no metrics.json): {', '.join(without)}.")
    return Section("Training", contents) if contents else None


def _categories(found: _Found, colors: Mapping[str, str], output: Path) -> Section | None:
    known = {run.label: ap for run in found.runs if (ap := run.per_category()) is not None}
    if not known:
        return None
    names = found.data.names
    counts = np.bincount(found.data.annotations.classes, minlength=len(names)).tolist()
    contents: list[Content] = []
    first, *others = known
    for other in others:
        if not (chosen := _largest_differences(names, known[first], known[other])):
            continue
        png = output / f"differences_{_as_file_name(other)}.png"
        values = {run: [known[run][names[i]] or 0.0 for i in chosen] for run in (first, other)}
        plot_differences(values, [f"{found.name(i)} ({counts[i]})" for i in chosen], colors, png)
        caption = (
            f"The categories whose AP differs most: at the top those that are better in {first}, "
            f"at the bottom those that are better in {other}. In parentheses: how many objects "
            "there are. The fewer, the less an AP says."
        )
        contents.append(Figure(png, caption))
    rows: list[list[Cell]] = [
        [found.name(i), counts[i], *(ap.get(name) for ap in known.values())]
        for i, name in enumerate(names)
    ]
    summary = f"AP of all {len(rows):,} categories"
    contents.append(Table(["category", "objects", *known], rows, summary))
    return Section("Categories", contents)


def _largest_differences(
    names: Sequence[str], first: Mapping[str, float | None], second: Mapping[str, float | None]
) -> list[int]:
    """Categories, from the one by which the first is better to the one by which the second is."""
    differences = {}
    for i, name in enumerate(names):
        a, b = first.get(name), second.get(name)
        if a is not None and b is not None:
            differences[i] = b - a
    ranked = sorted(differences, key=differences.__getitem__)
    better_first = [i for i in ranked if differences[i] < 0][:_DIFFERENCES]
    return better_first + [i for i in ranked if differences[i] > 0][-_DIFFERENCES:]


def _confusions(found: _Found, output: Path, min_score: float) -> Section | None:
    data = found.data
    if not data.annotations.available:
        return None
    images = [i for i, x in enumerate(data.annotations.image_ids) if x in found.images]
    counted = {
        run.label: count_confusions(
            data,
            as_arrays(found.detections[run.label], data, run.source),
            np.array(images, dtype=np.int64),
            min_score=min_score,
            min_iou=_MIN_IOU,
        )
        for run in found.runs
    }
    text = (
        f"Detections with a score of at least {min_score:g} each take an object that they overlap "
        f"with an IoU of at least {_MIN_IOU:g}, whatever its name, the best score first. So an "
        "object is called by one name, the best. It is missed if no detection takes it."
    )
    if data.federated:
        text += (
            " The annotation is federated: it leaves open whether further names are right for an "
            "object, too."
        )
    contents: list[Content] = [text, _shares(counted)]
    pairs = most_frequent(counted.values())
    if not pairs:
        return Section("Which names are confused", contents)
    contents += [
        f"The most frequent of the {len(pairs):,} pairs of names that are confused, and how often "
        "in each run:",
        _pairs(found, counted, pairs[:_PAIRS]),
    ]
    chosen = most_confused(pairs, _ROWS)
    names = [found.name(i) for i in chosen]
    for label, confusions in counted.items():
        png = output / f"confusions_{_as_file_name(label)}.png"
        shares = confusions.shares(chosen, chosen)
        plot_confusions(shares, names, [*names, "another name", "missed"], png)
        caption = (
            f"{label}: a row says what the objects of a name were called, in percent. On the "
            "diagonal they were called right. The names are those that all runs together confuse "
            "most often."
        )
        contents.append(Figure(png, caption))
    return Section("Which names are confused", contents)


def _shares(counted: Mapping[str, Confusions]) -> Table:
    rows: list[list[Cell]] = []
    for label, confusions in counted.items():
        objects, missed = int(confusions.objects.sum()), int(confusions.missed.sum())
        right = sum(n for (true, called), n in confusions.called.items() if true == called)
        parts = (right, objects - missed - right, missed)
        rows.append([label, objects, *(100 * part / max(objects, 1) for part in parts)])
    return Table(["run", "objects", "called right, %", "called otherwise, %", "missed, %"], rows)


def _pairs(
    found: _Found, counted: Mapping[str, Confusions], pairs: Sequence[tuple[int, int]]
) -> Table:
    objects = next(iter(counted.values())).objects.tolist()
    rows: list[list[Cell]] = []
    for true, called in pairs:
        times = [confusions.called[true, called] for confusions in counted.values()]
        rows.append([found.name(true), found.name(called), objects[true], *times])
    return Table(["true name", "called", "objects of the true name", *counted], rows)


def _pictures(
    found: _Found, output: Path, score_threshold: float | None, max_images: int
) -> Section | None:
    records = [r for r in all_records(found.data) if r["image_id"] in found.images]
    drawn = {}
    for label, detections in found.detections.items():
        drawn[label] = draw_detections(
            records,
            found.data,
            [asdict(detection) for detection in detections],
            output / "pictures" / _as_file_name(label),
            score_threshold=score_threshold,
            max_images=max_images,
        )
    contents: list[Content] = []
    for of_picture in zip(*drawn.values(), strict=True):
        for label, path in zip(drawn, of_picture, strict=True):
            name = f"{path.stem}, {label}" if len(drawn) > 1 else path.stem
            contents.append(Figure(path, name, max_width=1600))
    if not contents:
        return None
    which = "the best detections, as many as there are objects, but at least five"
    if score_threshold is not None:
        which = f"the detections with a score of at least {score_threshold:g}"
    text = f"Left: the ground truth. Right: {which}."
    if found.data.novel_classes:
        text += (
            " Novel categories are orange and starred. These are the first pictures of the data "
            "set, those with novel objects before all others; results did not choose them."
        )
    else:
        text += " These are the first pictures of the data set; results did not choose them."
    return Section("Ground truth and detections", [text, *contents])


def _origin(runs: Sequence[Run]) -> Section:
    rows: list[list[Cell]] = [["file", *(str(run.source) for run in runs)]]
    for key, what in _ORIGIN.items():
        values = [run.record.get(key) for run in runs]
        rows.append([what, *("–" if value is None else str(value) for value in values)])
    rows.append(["evaluator", *(run.record["protocol"]["evaluator"] for run in runs)])
    return Section("Where the numbers come from", [Table(["", *(run.label for run in runs)], rows)])


def _as_file_name(label: str) -> str:
    return label.replace("/", "_")
