"""Fine-tuning's gain and loss as a plot and as a table."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gridclip.files import replacing

TITLES = {
    "plain": "plain: new names only",
    "aligned": "with image-level alignment",
    "absent": "alignment, and old names absent",
}
_STYLES = ("o-", "s-", "D-")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def plot_fine_tuning(result: dict, png: Path) -> None:
    """The change of the new names' AP against that of all other names', a panel a number of
    pictures, a line a recipe over alpha.

    Args:
        result: the contents of fine_tuning.json.
    """
    counts = list(next(iter(result["recipes"].values())))
    figure = Figure(figsize=(4 * len(counts), 4.2), layout="constrained")
    panels = figure.subplots(1, len(counts), squeeze=False)[0]
    for axes, count in zip(panels, counts, strict=True):
        for (recipe, by_count), style in zip(result["recipes"].items(), _STYLES, strict=False):
            points = [(0.0, 0.0)]  # alpha 0: before
            for cell in by_count[count].values():
                points.append((cell["other_change"]["mean"], cell["new_change"]["mean"]))
            axes.plot(*zip(*points, strict=True), style, label=TITLES[recipe], markersize=4)
        axes.axhline(0, color="black", linewidth=0.5)
        axes.axvline(-1, color="black", linewidth=0.5, linestyle=":")
        axes.set_title(f"{count} pictures")
        axes.set_xlabel("change of all other names, AP")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("change of the new names, AP")
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(lines, labels, frameon=False, ncols=3, loc="outside upper center")
    with replacing(png) as partial:
        figure.savefig(partial, dpi=150, format="png")


def fine_tuning_table(result: dict) -> str:
    """The change in AP of new, old, unseen and all other names, by recipe, pictures and alpha.

    Args:
        result: the contents of fine_tuning.json.
    """
    before = result["before"]
    rows = [
        f"| {TITLES[recipe]} | {count} | {alpha} | "
        + " | ".join(_change(cell[f"{group}_change"]) for group in before)
        + " |"
        for recipe, by_count in result["recipes"].items()
        for count, by_alpha in by_count.items()
        for alpha, cell in by_alpha.items()
    ]
    values = ", ".join(f"{before[group]['mean']:.1f} of {group} names" for group in before)
    return "\n".join(
        [
            f"**Fine-tuning**, the laptop world, {result['world']}: change of box AP, mean ± "
            f"standard deviation over {before['new']['n']} detectors with pictures of their own, "
            f"on {result['processor']}; other names are old and unseen ones. Before: AP {values}."
            f"{_not_run(result['not_run'])}",
            "",
            "| recipe | pictures | alpha | new | old | unseen | other |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            "![gain against loss](results/fine_tuning.png)",
        ]
    )


def _not_run(left_out: dict) -> str:
    names = [TITLES[name] for name in left_out["recipes"]]
    names += [f"{count} pictures" for count in left_out["pictures"]]
    return f" Not run: {'; '.join(names)}." if names else ""


def _change(cell: dict) -> str:
    spread = "" if cell["std"] is None else f" ± {cell['std']:.1f}"
    return f"{cell['mean']:+z.1f}{spread}"
