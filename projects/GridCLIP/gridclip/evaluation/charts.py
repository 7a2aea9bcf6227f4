"""Charts of several runs side by side, as PNG files."""

import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from gridclip.files import replacing

# Okabe and Ito's, which colour-blind readers tell apart, too.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999")
_GROUP = re.compile(r"AP[rcf]?(_.+)?")  # neither AP50 nor the AP of sizes


def groups_of(metrics: Mapping[str, float]) -> list[str]:
    """The metrics that are the AP of all categories or of a group of them."""
    return [name for name in metrics if _GROUP.fullmatch(name)]


def colors_of(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each run, the same in all charts."""
    return {label: _COLORS[i % len(_COLORS)] for i, label in enumerate(labels)}


def plot_curves(runs: Mapping[str, Path], colors: Mapping[str, str], png: Path) -> None:
    """Losses, learning rate, and AP if it was measured during training: a panel each, with a line a
    run.

    Args:
        runs: by label the metrics.json.
        colors: of the runs, here and below.

    Raises:
        ValueError: none records a loss.
    """
    scalars = {label: read_metrics(path) for label, path in runs.items()}
    recorded = {name for series in scalars.values() for name, values in series.items() if values}
    names = ["total_loss", *sorted(name for name in recorded if name.startswith("loss")), "lr"]
    if any(len(series.get("bbox/AP", ())) > 1 for series in scalars.values()):
        names.insert(0, "bbox/AP")
    names = [name for name in names if name in recorded]
    if not any("loss" in name for name in names):
        raise ValueError(f"No loss is recorded in {', '.join(map(str, runs.values()))}.")
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.7 * rows + 0.4), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True).flat)
    for axes, name in zip(panels, names, strict=False):
        for label, series in scalars.items():
            values = series.get(name, {})
            # A line through a single record would not show: it becomes a point.
            marker = "o" if len(values) == 1 else None
            axes.plot(list(values), list(values.values()), color=colors[label], marker=marker)
        axes.set_title({"lr": "learning rate", "bbox/AP": "box AP, %"}.get(name, name), fontsize=10)
        axes.grid(alpha=0.3)
    for axes in panels[len(names) :]:
        axes.axis("off")
    figure.supxlabel("training step", fontsize=10)
    _legend(figure, runs, colors)
    _save(figure, png)


def plot_groups(
    runs: Mapping[str, Mapping[str, float]], colors: Mapping[str, str], png: Path
) -> None:
    """The AP of each group as bars, one a run.

    Args:
        runs: by label the metrics in percent.
    """
    names = list(dict.fromkeys(name for metrics in runs.values() for name in groups_of(metrics)))
    height = 0.8 / len(runs)
    figure = Figure(figsize=(8, 0.9 + len(names) * (0.25 + 0.22 * len(runs))), layout="constrained")
    axes = figure.subplots()
    for i, (label, metrics) in enumerate(runs.items()):
        values = [metrics.get(name, np.nan) for name in names]
        places = np.arange(len(names)) + (i - (len(runs) - 1) / 2) * height
        bars = axes.barh(places, np.nan_to_num(values), height * 0.92, color=colors[label])
        written = ["–" if value != value else f"{value:.1f}" for value in values]
        axes.bar_label(bars, written, padding=3, fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("box AP, %")
    axes.margins(x=0.08)
    _only_left_and_bottom(axes)
    _legend(figure, runs, colors)
    _save(figure, png)


def plot_differences(
    runs: Mapping[str, Sequence[float]],
    names: Sequence[str],
    colors: Mapping[str, str],
    png: Path,
) -> None:
    """The AP of N categories in runs, a line between the values of each.

    Args:
        runs: by label their N values in percent.
        names: of the categories, from the top.
    """
    figure = Figure(figsize=(8, 1.1 + 0.26 * len(names)), layout="constrained")
    axes = figure.subplots()
    places, values = np.arange(len(names)), np.array(list(runs.values()))
    axes.hlines(places, values.min(axis=0), values.max(axis=0), color="#999999", linewidth=2)
    for label, row in zip(runs, values, strict=True):
        axes.scatter(row, places, color=colors[label], zorder=2)
    axes.set_yticks(places, [_plain(name) for name in names], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("box AP, %")
    axes.grid(axis="x", alpha=0.3)
    _only_left_and_bottom(axes)
    _legend(figure, runs, colors)
    _save(figure, png)


def plot_confusions(
    shares: NDArray, rows: Sequence[str], columns: Sequence[str], png: Path
) -> None:
    """A table of shares as a heat map with its numbers in percent.

    Args:
        shares: (R, K) from 0 to 1, or nan.
        rows, columns: their R and K names.
    """
    figure = Figure(figsize=(2.6 + 0.5 * len(columns), 1.8 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            color = "white" if share > 0.55 else "black"
            axes.text(
                column, row, f"{100 * share:.0f}", ha="center", va="center", color=color, fontsize=8
            )
    axes.set_yticks(range(len(rows)), [_plain(name) for name in rows], fontsize=9)
    axes.set_xticks(
        range(len(columns)), [_plain(name) for name in columns], fontsize=9, rotation=40, ha="right"
    )
    axes.set_ylabel("true name")
    axes.set_xlabel("called, % of the objects of the true name")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _save(figure, png)


def read_metrics(path: Path) -> dict[str, dict[int, float]]:
    """The finite scalars: name to iteration, ascending, to value."""
    scalars: dict[str, dict[int, float]] = defaultdict(dict)
    skipped = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            iteration = record["iteration"]
            for name, value in record.items():
                scalars[name][iteration] = value
        except (ValueError, KeyError, TypeError):
            skipped += 1
    if skipped:
        logging.getLogger(__name__).warning(f"{path}: skipped {skipped} lines that do not parse")
    return {
        name: {i: value for i, value in sorted(series.items()) if math.isfinite(value)}
        for name, series in scalars.items()
    }


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # no formulas


def _legend(figure: Figure, labels: Iterable[str], colors: Mapping[str, str]) -> None:
    """One for the whole figure, above it; none of a single run."""
    if len(labels := list(labels)) > 1:
        handles = [Patch(color=colors[label]) for label in labels]
        names = [_plain(label) for label in labels]
        figure.legend(
            handles, names, loc="outside upper center", ncols=min(4, len(names)), frameon=False
        )


def _only_left_and_bottom(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, png: Path) -> None:
    with replacing(png) as partial:
        figure.savefig(partial, dpi=150, format="png")
