"""The tables of the laptop world's results, in Markdown."""

VARIANTS = {
    "gridclip": "GridCLIP",
    "whole_image_alignment": "image-level alignment in the paper's words",
    "no_image_alignment": "without image-level alignment",
    "slow_backbone": "without it, the backbone's learning rate a tenth",
    "no_dense_scores": "GridCLIP without dense scores",
    "grid_level_alone": "grid-level alignment alone, the backbone's learning rate a tenth",
    "light_towers": "GridCLIP with towers of two convolutions",
    "closed_set": "without grid-level alignment (closed set)",
    "random_init": "random instead of CLIP initialisation",
    "classification_init": "initialised by classification of the base categories",
    "vild_text": "ViLD-text",
    "vild": "ViLD",
    "vild_ensemble": "ViLD-ensemble",
}


def laptop_world_table(summary: dict) -> str:
    """AP of every variant, mean and spread over seeds."""
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
            "Novel categories, APr, are unseen combinations, shapes or textures. "
            "`make reproduce` makes it; `results/laptop_world_runs.json` holds every run's config, "
            "commit, versions and seconds.",
            "",
            "| | " + " | ".join(name.replace("APr_", "APr ") for name in metrics) + " |",
            "|---|" + "---|" * len(metrics),
            *rows,
            "",
            "![APr by novel axis, and APf](results/laptop_world.png)",
        ]
    )


def laptop_time_table(curves: dict) -> str:
    """Accuracy of GridCLIP and ViLD against the minutes that they take."""
    rows = [
        f"| {VARIANTS[variant]} | {point['steps']} | {curve['preparation_minutes']:.1f} | "
        f"{point['minutes']:.1f} | {point['AP']:.1f} | {point['APr']:.1f} | {point['APf']:.1f} | "
        f"{point['n']} |"
        for variant, curve in curves.items()
        for point in curve["points"]
    ]
    return "\n".join(
        [
            "**Accuracy against time**, the same world: minutes of one core, two runs at a time on "
            "two. *Before* is the making of CLIP's embeddings, for ViLD of proposals too, but not "
            "the training of ViLD-text, which those come from. Every length is a schedule "
            "of its own.",
            "",
            "| | steps | before, min | training, min | AP | APr | APf | runs |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            "![AP and APr against minutes](results/laptop_world_time.png)",
        ]
    )


def mean_and_spread(cell: dict | None) -> str:
    if cell is None or cell["mean"] is None:
        return "–"
    spread = "" if cell["std"] is None else f" ± {cell['std']:.1f}"
    return f"{cell['mean']:.1f}{spread}"
