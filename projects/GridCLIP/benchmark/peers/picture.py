"""Latency against the number of names and the size of the picture."""

from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from gridclip.files import replacing

from .detect import INT8, PYTORCH

_LINES = {PYTORCH: ("-", "PyTorch fp32"), INT8: ("--", "OpenVINO int8")}


def draw(record: dict, path: Path) -> None:
    """Write a PNG; of the detectors that were measured at several numbers of names or sizes."""
    setup = record["setup"]
    figure = Figure(figsize=(9.5, 5), layout="constrained")
    names, sizes = figure.subplots(1, 2, sharey=True)
    by_names = curves(record, "names")
    by_side = curves(record, "size")
    keys = list(dict.fromkeys(key for key, _ in [*by_names, *by_side]))
    colors = dict(zip(keys, colormaps["tab10"].colors, strict=False))
    titles = {entry["detector"]: entry["title"] for entry in record["latency"]}
    for axes, found in ((names, by_names), (sizes, by_side)):
        for (key, form), points in found.items():
            style, name = _LINES[form]
            label = f"{titles[key]}, {name}"
            axes.plot(*zip(*points, strict=True), style, marker="o", color=colors[key], label=label)
    side, count = setup["size"][0], setup["names"]
    _dress(names, f"names, {side} x {side}", by_names)
    _dress(sizes, f"side of the picture in pixels, {count:,} names", by_side)
    names.set_ylabel("seconds a picture, median")
    figure.suptitle(f"{setup['processor']}, {setup['threads']} threads", fontsize=10)
    handles = dict(
        (label, line)
        for axes in (names, sizes)
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    )
    if handles:
        figure.legend(
            handles.values(),
            handles,
            loc="outside lower center",
            ncols=3,
            frameon=False,
            fontsize=8,
        )
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150)


def curves(record: dict, axis: str) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """By detector and form, points of (number of names or side, seconds) where there are several.

    Args:
        axis: "names" or "size"; what is not asked for is that of the whole comparison. A detector
            with a size of its own keeps it.
    """
    setup = record["setup"]
    found: dict[tuple[str, str], dict[int, float]] = {}
    for entry in record["latency"]:
        if entry["form"] not in _LINES or entry["size"][0] != entry["size"][1]:
            continue
        own = _own_size(record, entry["detector"])
        fixed = entry["size"] == own if axis == "names" else entry["names"] == setup["names"]
        if fixed:
            place = entry["names"] if axis == "names" else entry["size"][0]
            found.setdefault((entry["detector"], entry["form"]), {})[place] = entry["p50"]
    return {key: sorted(points.items()) for key, points in found.items() if len(points) > 1}


def _own_size(record: dict, detector: str) -> list[int]:
    """The first that it was measured at: that of the whole comparison, or its own."""
    return next(e["size"] for e in record["latency"] if e["detector"] == detector)


def _dress(axes: Axes, label: str, found: dict) -> None:
    axes.set_xlabel(label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sorted({x for points in found.values() for x, _ in points}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
