"""The tables of the laptop world's results, in Markdown."""

VARIANTS = {
    "gridclip": "GridCLIP",
    "whole_image_alignment": "image-level alignment on the whole picture",
    "no_image_alignment": "without image-level alignment",
    "slow_backbone": "without image-level alignment, backbone learning rate x 0.1",
    "no_dense_scores": "GridCLIP without dense scores",
    "grid_level_alone": "grid-level alignment alone, backbone learning rate x 0.1",
    "light_towers": "GridCLIP with towers of two convolutions",
    "closed_set": "without grid-level alignment (closed set)",
    "random_init": "random initialisation instead of CLIP's",
    "classification_init": "initialised from a classifier of the base categories",
    "vild_text": "ViLD-text",
    "vild": "ViLD",
    "vild_ensemble": "ViLD-ensemble",
}


def laptop_world_table(summary: dict) -> str:
    """AP of every variant, with mean and spread over seeds.

    Args:
        summary: as ``laptop_world.summary.summarise`` returns it.
    """
    metrics = list(next(iter(summary.values())))
    seeds = sorted({cell["n"] for row in summary.values() for cell in row.values()})
    count = " or ".join(map(str, seeds))
    rows = [
        f"| {VARIANTS[variant]} | "
        + " | ".join(mean_and_spread(summary[variant].get(name)) for name in metrics)
        + " |"
        for variant in VARIANTS
        if variant in summary
    ]
    return "\n".join(
        [
            f"**The laptop world**, test: box AP, mean ± standard deviation over {count} seeds. "
            "APr is the AP of novel categories: unseen combinations, shapes or textures. "
            "`make reproduce` makes this table; `results/laptop_world_runs.json` holds the config, "
            "commit, versions and seconds of every run.",
            "",
            "| | " + " | ".join(name.replace("APr_", "APr ") for name in metrics) + " |",
            "|---|" + "---|" * len(metrics),
            *rows,
            "",
            "![APr by novel axis, and APf](results/laptop_world.png)",
        ]
    )


def laptop_time_table(curves: dict) -> str:
    """Accuracy of GridCLIP and ViLD against the minutes that they take.

    Args:
        curves: the contents of ``laptop_world_time.json``.
    """
    rows = [
        f"| {VARIANTS[variant]} | {point['steps']} | {curve['preparation_minutes']:.1f} | "
        f"{point['minutes']:.1f} | {point['AP']:.1f} | {point['APr']:.1f} | {point['APf']:.1f} | "
        f"{point['n']} |"
        for variant, curve in curves.items()
        for point in curve["points"]
    ]
    return "\n".join(
        [
            "**Accuracy against time**, the same world. Minutes are those of one core; two runs "
            "shared a machine of two cores. *Before* is the time to compute CLIP's embeddings and, "
            "for ViLD, the proposals; the training of ViLD-text, which makes the proposals, is not "
            "counted. Every number of steps is a run of its own, with its own schedule.",
            "",
            "| | steps | before, min | training, min | AP | APr | APf | runs |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            "![AP and APr against minutes](results/laptop_world_time.png)",
        ]
    )


def mean_and_spread(cell: dict | None) -> str:
    """Text such as "48.3 ± 0.1": without the spread for a single run, a dash without a value."""
    if cell is None or cell["mean"] is None:
        return "–"
    spread = "" if cell["std"] is None else f" ± {cell['std']:.1f}"
    return f"{cell['mean']:.1f}{spread}"
