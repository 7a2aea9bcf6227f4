"""The losses of one training, as the demo's report shows them."""

import os
from pathlib import Path

from matplotlib.figure import Figure

from gridclip.evaluation.charts import read_metrics
from gridclip.files import replacing


def plot_losses(metrics_json: str | os.PathLike, png: str | os.PathLike) -> Path:
    """Plot the losses and the learning rate that detectron2's metrics.json recorded.

    Where a resumed run repeats an iteration, the last record counts. A line that was cut short,
    because the run was killed, is skipped.

    Raises:
        FileNotFoundError: ``metrics_json`` is missing.
        ValueError: it records no loss.
    """
    scalars = read_metrics(Path(metrics_json))
    names = ["total_loss", *sorted(name for name in scalars if name.startswith("loss"))]
    losses = {name: scalars[name] for name in names if scalars.get(name)}
    if not losses:
        raise ValueError(f"{metrics_json} records no loss.")

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    loss_axes, lr_axes = figure.subplots(2, sharex=True, height_ratios=(4, 1))
    for name, series in losses.items():
        color, width = ("black", 2.0) if name == "total_loss" else (None, 1.2)
        # A line through a single record would not show: it becomes a point.
        marker = "o" if len(series) == 1 else None
        x, y = list(series), list(series.values())
        loss_axes.plot(x, y, label=name, color=color, linewidth=width, marker=marker)
    values = [value for series in losses.values() for value in series.values()]
    if min(values) > 0 and max(values) > 20 * min(values):
        loss_axes.set_yscale("log")
    loss_axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    rates = scalars.get("lr", {})
    lr_axes.plot(list(rates), list(rates.values()), color="gray")
    lr_axes.set_xlabel("iteration")
    for axes, label in ((loss_axes, "loss"), (lr_axes, "learning rate")):
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)

    png = Path(png)
    with replacing(png) as partial:
        figure.savefig(partial, dpi=150, format="png")
    return png
