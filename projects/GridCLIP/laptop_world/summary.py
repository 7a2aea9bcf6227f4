"""Mean and spread over seeds, as a table of numbers and as a plot."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

from gridclip.files import replacing

METRICS = ("AP", "AP50", "APr", "APc", "APf")
AXIS_PREFIX = "APr_"
_COLORS = ("#e07a1f", "#f0a860", "#f6cf9f", "#4a7fb5", "#9dbbd6")

Summary = dict[str, dict[str, dict]]


def summarise(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> Summary:
    """
    Args:
        runs: by variant, the metrics of each seed's run, in percent, in the order of the seeds.

    Returns:
        By variant and metric: "mean", "std", the sample standard deviation, None where n is 1, "n",
        the runs, and "values", theirs. Of each run's metrics those of METRICS and APr by axis are
        taken. A value that is nan, for want of ground truth, is None, and so are then mean and std.

    Raises:
        ValueError: the runs of a variant have different metrics.
    """
    summary: Summary = {}
    for variant, metrics in runs.items():
        names = _metric_names(metrics[0])
        if any(_metric_names(other) != names for other in metrics):
            raise ValueError(f"The runs of {variant} have different metrics.")
        summary[variant] = {name: statistics_of_seeds([m[name] for m in metrics]) for name in names}
    return summary


def _metric_names(metrics: Mapping[str, float]) -> list[str]:
    axes = sorted(name for name in metrics if name.startswith(AXIS_PREFIX))
    return [*(name for name in METRICS if name in metrics), *axes]


def statistics_of_seeds(values: list[float]) -> dict:
    """ "mean", "std" (None for one seed), "n" and "values", None in place of nan."""
    shown = [None if math.isnan(value) else value for value in values]
    if None in shown:
        return {"mean": None, "std": None, "n": len(values), "values": shown}
    std = stdev(values) if len(values) > 1 else None
    return {"mean": mean(values), "std": std, "n": len(values), "values": shown}


def plot_summary(summary: Summary, png: str | os.PathLike) -> None:
    """Bars of APr by axis and of APf, a group a variant, with lines of one standard deviation."""
    first = next(iter(summary.values()))
    axes_names = [name for name in first if name.startswith(AXIS_PREFIX)]
    shown = [*axes_names, "APf"]
    colors = [*_COLORS[: len(axes_names)], "#4a7fb5"]
    figure = Figure(figsize=(8, 1 + 0.6 * len(summary)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(shown)
    for i, (name, color) in enumerate(zip(shown, colors, strict=True)):
        cells = [metrics.get(name, {}) for metrics in summary.values()]
        places = [k + (i - (len(shown) - 1) / 2) * height for k in range(len(summary))]
        axes.barh(
            places,
            [cell.get("mean") or 0.0 for cell in cells],
            height * 0.92,
            xerr=[cell.get("std") or 0.0 for cell in cells],
            error_kw={"linewidth": 1, "ecolor": "#333333"},
            color=color,
            label=name.replace(AXIS_PREFIX, "APr, unseen ") if name != "APf" else "APf, trained on",
        )
    axes.set_yticks(range(len(summary)), [variant.replace("_", " ") for variant in summary])
    axes.set_ylim(len(summary) - 0.5, -0.5)  # the first variant on top
    axes.set_xlabel("box AP, %")
    axes.set_axisbelow(True)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(left=0)
    figure.legend(frameon=False, ncols=len(shown), loc="outside upper center")
    with replacing(Path(png)) as partial:
        figure.savefig(partial, dpi=150, format="png")
