"""The comparison as text tables and as a picture."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure
from tabulate import tabulate

from gridclip.files import replacing

from .stages import STAGES

_COLORS = dict(zip(STAGES, colormaps["tab10"].colors, strict=False))
_FACTORS = ("cheaper_step", "shorter_schedule", "cheaper_teacher")


def tables(record: dict, tablefmt: str = "simple") -> str:
    """All figures of the record of a comparison.

    Args:
        tablefmt: a format of tabulate; "github" is Markdown.
    """
    make_table = partial(tabulate, tablefmt=tablefmt, missingval="–")
    parts = [
        _setup(record),
        "Inference, seconds an image: both post-processings; stages of the official one, medians",
        _inference(record, make_table),
        "Multiply-adds of a picture, 1e9 (fvcore), and parameters",
        _arithmetic(record, make_table),
        "Training step, seconds an image; peak memory above model and optimizer, MiB",
        _training(record, make_table),
    ]
    if term := record["training"].get("gridclip", {}).get("image_level_term"):
        parts.append(
            f"The image-level term adds {term['added_by_store']:.1%} to a step of GridCLIP with "
            "the teacher's embeddings from the store, and would add "
            f"{term['added_by_teacher_in_the_loop']:.1%} with the teacher in the loop."
        )
    if record["training_cost"]:
        heading = "Training in all, hours on this machine; a ratio is the product of its factors"
        parts += [heading, _cost(record, make_table)]
    parts += ["Ratios", _ratios(record, make_table)]
    return "\n\n".join(parts)


def _setup(record: dict) -> str:
    setup, contestants = record["setup"], record["contestants"].values()
    (height, width), load = setup["size"], setup["load_average"][0]
    weights = sorted({c["weights"] for c in contestants})
    words = sorted({c["text_embeddings"] for c in contestants if "text_embeddings" in c})
    return (
        f"{height} x {width}, {setup['pictures']} pictures, {setup['batch_size']} at a time, "
        f"{setup['dtype']}, {setup['processor']}, {setup['threads']} threads, load {load:.1f} at "
        f"the start, {setup['runs']} runs\nweights: {', '.join(weights)}; "
        f"text embeddings: {', '.join(words)}"
    )


def _inference(record: dict, make_table: Callable) -> str:
    measured = record["inference"]
    used = [s for s in STAGES if any(s in m["stages"] for m in measured.values())]
    rows = [
        [m["title"], m["p50"], m["p90"], m["matched_p50"], m["images_per_second"]]
        + [m["stages"].get(stage) for stage in used]
        + [round(m["detections_per_image"]), round(m["candidates_per_image"])]
        for m in measured.values()
    ]
    headers = ["", "p50", "p90", "p50 matched", "images/s", *used, "detections", "candidates"]
    return make_table(rows, headers, floatfmt=".3g")


def _arithmetic(record: dict, make_table: Callable) -> str:
    counted = record["arithmetic"]
    used = [s for s in STAGES if any(s in c["gmac_by_stage"] for c in counted.values())]
    rows = [
        [record["inference"][key]["title"], c["gmac"]]
        + [c["gmac_by_stage"].get(stage) for stage in used]
        + [f"{c['parameters'] / 1e6:.1f}M"]
        for key, c in counted.items()
    ]
    return make_table(rows, ["", "in all", *used, "parameters"], floatfmt=".1f")


def _training(record: dict, make_table: Callable) -> str:
    rows = []
    for key, seconds in record["training"].items():
        memory = record["memory"].get(key, {})
        rows.append(
            [record["inference"][key]["title"]]
            + [seconds[part] for part in ("forward", "backward", "optimizer", "step")]
            + [memory.get("tensors"), memory.get("resident_set")]
        )
    headers = ["", "forward", "backward", "optimizer", "step", "tensors", "resident set"]
    return make_table(rows, headers, floatfmt=(None, *[".3g"] * 4, ".0f", ".0f"))


def _cost(record: dict, make_table: Callable) -> str:
    rows = []
    for name, cost in record["training_cost"].items():
        factors = cost.get("over_first", {})
        rows.append(
            [name, cost["teacher_seconds"] / 3600, f"{cost['images_seen'] / 1e6:.2f}M"]
            + [cost["seconds_per_image"], cost["hours"]]
            + [factors.get(f) for f in ("total", *_FACTORS)]
        )
    headers = ["schedule", "teacher, h", "images seen", "s an image", "in all, h", "ratio"]
    return make_table(
        rows, [*headers, *(f"from {f.replace('_', ' ')}" for f in _FACTORS)], floatfmt=".3g"
    )


def _ratios(record: dict, make_table: Callable) -> str:
    bounds = record["arithmetic_ratios"]
    rows = [[name, value, bounds.get(name)] for name, value in record["ratios"].items()]
    return make_table(rows, ["", "measured", "of multiply-adds"], floatfmt=".3g")


def draw(record: dict, path: Path) -> None:
    """Write a PNG with a bar of the stages' seconds for each detector.

    Variants that are far slower than every detector are cut off at the edge.
    """
    measured = list(record["inference"].values())
    limit = 1.12 * max(record["inference"][key]["p50"] for key in record["contestants"])
    figure = Figure(figsize=(9, 1.6 + 0.5 * len(measured)), layout="constrained")
    axes = figure.add_subplot()
    left = [0.0] * len(measured)
    for stage in STAGES:
        widths = [m["stages"].get(stage, 0.0) for m in measured]
        if not any(widths):
            continue
        axes.barh(range(len(measured)), widths, left=left, label=stage, color=_COLORS[stage])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for row, end in enumerate(left):
        beyond = end > limit
        axes.text(
            min(end, limit),
            row,
            f" {end:.3g} s ",
            va="center",
            ha="right" if beyond else "left",
            color="white" if beyond else "black",
        )
    axes.set_yticks(range(len(measured)), [m["title"] for m in measured])
    axes.invert_yaxis()
    axes.set_xlim(0, limit)
    axes.set_xlabel("seconds an image, medians of the stages")
    setup = record["setup"]
    height, width = setup["size"]
    axes.set_title(f"{height} x {width}, {setup['processor']}, {setup['dtype']}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150)
