"""Accuracy against training time: the same experiment at several lengths."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure

from gridclip.files import replacing
from laptop_world.differences import METRICS, of_same_seeds, paired_difference
from laptop_world.summary import statistics_of_seeds

_PANELS = {"AP": "box AP, %", "APr": "box APr, novel categories, %"}
_STYLES = ("o-", "s-", "D-", "^-", "v-")

Curves = dict[str, dict]


def training_seconds(folder: str | os.PathLike, iterations: int, device: str) -> float:
    """What the steps of a run took, data loading included, by the times in its metrics.json: on a
    CPU the processor's time, which other runs on the machine do not stretch, else the clock's.

    Neither start and evaluation count nor steps that a kill made a run take twice.

    Raises:
        ValueError: the file has no times.
    """
    lines = (Path(folder) / "metrics.json").read_text(encoding="utf-8").splitlines()
    key = "cpu_time" if device == "cpu" else "time"
    logged = {line["iteration"]: line[key] for line in map(json.loads, lines) if key in line}
    if not logged:
        raise ValueError(f"{folder}/metrics.json has no times of steps: the run was too short.")
    return mean(logged.values()) * iterations


def curve_point(runs: Sequence[Mapping[str, float]], minutes: float, steps: int) -> dict:
    """ "steps", "minutes" of training, and for each of METRICS what statistics_of_seeds() returns.

    Args:
        runs: metrics of each, in percent, in the order of the seeds.
    """
    metrics = {name: statistics_of_seeds([run[name] for run in runs]) for name in METRICS}
    return {"steps": steps, "minutes": minutes, **metrics}


def set_beside_gridclip(curves: Curves) -> None:
    """Give each point of another detector "gridclip": GridCLIP's longest run that takes no more
    minutes in all, preparation included, or None if there is none.

    It has "steps", and for each of METRICS what paired_difference() returns, GridCLIP's minus the
    other's, of the seeds that both have.
    """
    ours = curves.get("gridclip", {"preparation_minutes": 0.0, "points": []})
    for name, curve in curves.items():
        more = curve["preparation_minutes"] - ours["preparation_minutes"]
        for point in curve["points"] if name != "gridclip" else ():
            within = [p for p in ours["points"] if p["minutes"] <= point["minutes"] + more]
            point["gridclip"] = _differences(within[-1], point) if within else None


def _differences(ours: dict, theirs: dict) -> dict:
    pairs = {m: of_same_seeds(ours[m]["values"], theirs[m]["values"]) for m in METRICS}
    return {"steps": ours["steps"], **{m: paired_difference(*pair) for m, pair in pairs.items()}}


def plot_curves(curves: Curves, titles: Mapping[str, str], png: str | os.PathLike) -> None:
    """AP and APr against minutes, a line a variant, with bars of one standard deviation.

    Args:
        curves: by variant "device" and "processor", the same for all, "preparation_minutes", which
            a training of any length has before it, and "points", as :func:`curve_point` makes them,
            from short to long.
        titles: of the variants.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    first = next(iter(curves.values()))
    of = "a core" if first["device"] == "cpu" else first["processor"]
    panels = figure.subplots(1, len(_PANELS))
    for axes, (metric, label) in zip(panels, _PANELS.items(), strict=True):
        for (variant, curve), style in zip(curves.items(), _STYLES[: len(curves)], strict=True):
            minutes = [curve["preparation_minutes"] + p["minutes"] for p in curve["points"]]
            cells = [p[metric] for p in curve["points"]]
            axes.errorbar(
                minutes,
                [cell["mean"] for cell in cells],
                yerr=[cell["std"] or 0.0 for cell in cells],
                fmt=style,
                label=titles[variant],
                markersize=5,
                capsize=2,
            )
        axes.set_xscale("log")
        ticks = [1, 2, 5, 10, 20, 50]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(f"minutes of {of}: CLIP's embeddings and training")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(lines, labels, frameon=False, ncols=3, loc="outside upper center")
    with replacing(Path(png)) as partial:
        figure.savefig(partial, dpi=150, format="png")
