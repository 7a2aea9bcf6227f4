"""The tables of the laptop world's results, in Markdown."""

from laptop_world.differences import METRICS

VARIANTS = {
    "gridclip": "GridCLIP",
    "gridclip_4000": "GridCLIP, 4,000 steps",
    "no_distribution": "box deltas without distributions",
    "fcos_assignment": "FCOS's box deltas and assignment of locations to boxes",
    "no_dense_scores": "without dense scores",
    "no_image_alignment": "without image-level alignment",
    "grid_image_alignment": "image-level alignment of the grid embeddings",
    "aligned_slow_backbone": "backbone learning rate x 0.1",
    "whole_image_alignment": "image-level alignment of the whole picture",
    "closed_set": "without grid-level alignment (closed set)",
    "random_init": "random initialisation instead of CLIP's",
    "classification_init": "initialised from a classifier of the base categories",
    "vild_text": "ViLD-text",
    "vild": "ViLD",
    "vild_ensemble": "ViLD-ensemble",
    "vild_text_dense": "ViLD-text with dense scores",
    "vild_dense": "ViLD with dense scores",
    "vild_ensemble_dense": "ViLD-ensemble with dense scores",
    "fvlm": "F-VLM",
}


def laptop_world_table(summary: dict) -> str:
    """AP of every variant, with mean and spread over seeds.

    Args:
        summary: as ``laptop_world.summary.summarise`` returns it.
    """
    metrics = list(next(iter(summary.values())))
    rows = [
        f"| {VARIANTS[variant]} | {max(cell['n'] for cell in summary[variant].values())} | "
        + " | ".join(mean_and_spread(summary[variant].get(name)) for name in metrics)
        + " |"
        for variant in VARIANTS
        if variant in summary
    ]
    return "\n".join(
        [
            "**The laptop world**, test: box AP, mean ± standard deviation over n seeds. APr is "
            "the AP of novel categories: unseen combinations, shapes or textures. "
            "`make reproduce` makes this table.",
            "",
            "| | n | " + " | ".join(name.replace("APr_", "APr ") for name in metrics) + " |",
            "|---|---|" + "---|" * len(metrics),
            *rows,
            "",
            "![APr by novel axis, and APf](results/laptop_world.png)",
        ]
    )


def laptop_runs_note(runs: dict) -> str:
    """On what the table above was run, and what was not.

    Args:
        runs: the contents of ``laptop_world_runs.json``.
    """
    shared, not_run = runs["shared"], runs["not_run"]
    commit = f"commit {shared['commit'][:10]}" if "commit" in shared else "several commits"
    listed = ", ".join(
        VARIANTS[variant]
        + ("" if seeds == runs["seeds"] else f" (seed {', '.join(map(str, seeds))})")
        for variant, seeds in not_run.items()
    )
    return (
        f"All runs on {shared['processor']}, {commit}, seeds "
        f"{', '.join(map(str, runs['seeds']))}; n says how many a row has. Another processor "
        "rounds sums otherwise: there the same seed trains another detector, another draw of the "
        f"same distribution. Not run: {listed or 'nothing'}. `results/laptop_world_runs.json` "
        "holds configs, versions and seconds, `results/laptop_world.json` the value of every seed."
    )


def laptop_differences_table(differences: dict) -> str:
    """Paired differences with their intervals.

    Args:
        differences: the contents of ``laptop_world_differences.json``.
    """
    metrics = list(next(iter(differences.values())))
    rows = []
    for pair, cells in differences.items():
        ours, theirs = (VARIANTS[name] for name in pair.split(" - "))
        n = max(cell["n"] for cell in cells.values())
        shown = " | ".join(difference(cells.get(name)) for name in metrics)
        rows.append(f"| {ours} | {theirs} | {n} | {shown} |")
    return "\n".join(
        [
            "**Differences**, first row minus second, in points of AP: the mean over n seeds of "
            "the difference at the same seed, and its 95% interval by Student's t. **Bold**: the "
            "interval does not contain zero. Of two runs with one seed, initial weights and the "
            "order of pictures are the same as far as the detectors allow. The intervals are over "
            "seeds alone: pictures, small CLIP and processor are the same for all, and so are the "
            "proposals from which ViLD and ViLD-ensemble learn. They are not corrected for their "
            f"number: of {len(rows) * len(metrics)} intervals, about one in twenty misses the true "
            "difference.",
            "",
            "| | minus | n | " + " | ".join(metrics) + " |",
            "|---|---|---|" + "---|" * len(metrics),
            *rows,
        ]
    )


def laptop_time_table(curves: dict) -> str:
    """Accuracy of GridCLIP and the two-stage detectors against the minutes that they take.

    Args:
        curves: the contents of ``laptop_world_time.json``.
    """
    rows = [
        f"| {VARIANTS[variant]} | {point['steps']} | {curve['preparation_minutes']:.1f} | "
        f"{point['minutes']:.1f} | {point['AP']['n']} | "
        + " | ".join(mean_and_spread(point[name]) for name in METRICS)
        + f" | {_beside(point)} |"
        for variant, curve in curves.items()
        for point in curve["points"]
    ]
    curve = next(iter(curves.values()))
    if curve["device"] == "cpu":
        minutes = f"Minutes are the processor time of one core ({curve['processor']})."
    else:
        minutes = (
            f"Minutes are those of a machine with {curve['processor']}, which runs may have "
            "shared: they are not minutes of a core."
        )
    return "\n".join(
        [
            f"**Accuracy against time**, the same world. {minutes} *Before* is the clock's time "
            "to compute CLIP's embeddings of pictures and, for ViLD, the proposals; the training "
            "of ViLD-text, which makes the proposals, is not counted. Every number of steps is a "
            "run of its own, with its own schedule. The last columns are of GridCLIP's longest run "
            "that takes no more minutes in all: its AP minus that of the row, with intervals as "
            "in the table above. Where either has one seed there is no interval, and a difference "
            "within the spread of the table above says nothing.",
            "",
            "| | steps | before, min | training, min | n | AP | APr | APf | GridCLIP's steps "
            "| its AP minus this | APr | APf |",
            "|" + "---|" * 12,
            *rows,
            "",
            "![AP and APr against minutes](results/laptop_world_time.png)",
        ]
    )


def _beside(point: dict) -> str:
    """GridCLIP's steps and its differences, dashes where none of its runs is as short; nothing
    beside its own."""
    if "gridclip" not in point:
        return " | | | "
    ours = point["gridclip"]
    if ours is None:
        return "– | – | – | –"
    shown = " | ".join(difference(ours[name]) for name in METRICS)
    return f"{ours['steps']} | {shown}"


def thresholds_table(record: dict) -> str:
    """The record of ``laptop_world.thresholds``."""
    best, pictures = record["best"], record["pictures"]
    rows = [
        f"| {asked} | {_best(best['competing'][asked])} | {_best(best['alone'][asked])} |"
        for asked in best["competing"]
    ]
    base, novel = (_best(best["novelty"][kind]).split(" | ") for kind in ("base", "novel"))
    default = record["default_threshold"]
    columns = f"threshold | F1 | F1 at {default}"
    return "\n".join(
        [
            f"| names asked for at once | as it is: {columns} | without competitors: {columns} |",
            "|" + "---|" * 7,
            *rows,
            "",
            f"The threshold with the best F1, and that F1. Of names annotated in training it is "
            f"{base[0]}, F1 {base[1]}, and of novel ones {novel[0]}, F1 {novel[1]}. "
            f"{pictures['count']} pictures with {record['objects']} objects, drawn for this, every "
            "name asked for in every picture, in groups; the last group of 34 has 28. One "
            f"detector, on {record['processor']}. Commit {record['commit'][:10]}, "
            f"torch {record['versions']['torch']}.",
        ]
    )


def examples_table(record: dict) -> str:
    """The record of ``laptop_world.examples``."""
    queries = record["queries"]
    metrics = list(queries["word"])
    n = len(record["seeds"])
    return "\n".join(
        [
            "**Words and examples**, the same world: novel categories looked for by their words, "
            f"by examples, and by both; base categories by words. {n} detectors, each with other "
            "examples: mean ± standard deviation.",
            "",
            "| novel categories by | "
            + " | ".join(m.replace("APr_", "APr ") for m in metrics)
            + " |",
            "|---|" + "---|" * len(metrics),
            *(
                f"| {query} | " + " | ".join(mean_and_spread(cells[m]) for m in metrics) + " |"
                for query, cells in queries.items()
            ),
            "",
            "An example is a box in a picture of no split. The small CLIP was trained on captions "
            "that have these words, so that here a word says more than a few examples; of what has "
            f"no word this says nothing. On {record['processor']}, commit "
            f"{record['commit'][:10]}.",
        ]
    )


def _best(cell: dict[str, float]) -> str:
    return f"{cell['threshold']:.2f} | {cell['f1']:.2f} | {cell['f1_at_default']:.2f}"


def mean_and_spread(cell: dict | None) -> str:
    """Text such as "48.3 ± 0.1": without the spread for a single run, a dash without a value."""
    if cell is None or cell["mean"] is None:
        return "–"
    spread = "" if cell["std"] is None else f" ± {cell['std']:.1f}"
    return f"{cell['mean']:.1f}{spread}"


def difference(cell: dict | None) -> str:
    """Text such as "+1.2 (+0.3 to +2.1)": bold if the interval does not contain zero, without an
    interval for a single pair, a dash without a value."""
    if cell is None:
        return "–"
    text = f"{cell['mean']:+.1f}"
    if cell["interval"] is not None:
        text += " ({:+.1f} to {:+.1f})".format(*cell["interval"])
    return f"**{text}**" if cell["excludes_zero"] else text
