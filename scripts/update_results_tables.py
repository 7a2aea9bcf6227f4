"""Write the tables of projects/GridCLIP/README.md from the files in projects/GridCLIP/results.

python scripts/update_results_tables.py
"""

import json
from functools import partial
from pathlib import Path

from gridclip.benchmark import report

PROJECT = Path(__file__).parents[1] / "projects/GridCLIP"


def origin(record: dict) -> str:
    """What a reader needs to repeat the measurement, in one line."""
    versions = record["versions"]
    return (
        f"Commit {record['commit'][:10]}, torch {versions['torch']}, "
        f"detectron2 {versions['detectron2']}, Python {versions['python']}."
    )


def overfit_table(record: dict, name: str, config: str) -> str:
    """AP of a run that overfits 16 photographs."""
    metrics = record["metrics"]["bbox"]
    columns = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    minutes = record["seconds"] / 60
    return "\n".join(
        [
            f"**Overfitting, {name}.** `configs/mini/{config}`: trained on "
            f"{record['protocol']['images']} photographs and tested on the same, "
            f"{record['iterations']} steps, {minutes:.0f} minutes on {record['device']}, seed "
            f"{record['seed']}. It shows that learning works, no more: this is no LVIS AP.",
            "",
            "| " + " | ".join(columns) + " |",
            "|" + "---|" * len(columns),
            "| " + " | ".join(f"{metrics[column]:.1f}" for column in columns) + " |",
            "",
            origin(record),
        ]
    )


def speed_table(record: dict) -> str:
    """The comparison of scripts/compare_speed.py: inference, training, cost in all, ratios."""
    return "\n\n".join(
        [
            "**Speed.** *Official* post-processing is each detector's own; *matched* gives ViLD "
            "GridCLIP's score threshold.",
            report.tables(record, tablefmt="github"),
            "![Seconds of the stages](results/speed_cpu.png)",
            origin(record["setup"]),
        ]
    )


def teacher_passes_table(record: dict) -> str:
    """What the teacher's embeddings cost, for GridCLIP and for ViLD."""
    names = {
        "whole": "GridCLIP: the picture and its mirror image",
        "tiles9": "GridCLIP: 9 tiles of both",
        "regions": "ViLD: 300 regions, two crops each",
    }
    height, width = record["picture"]
    return "\n".join(
        [
            f"**What the teacher costs before training**, {record['clip']} (D = {record['dim']}), "
            f"a picture of {height} x {width}, {record['device']}, {record['threads']} threads, "
            f"random weights, runs in turn: {record['runs']}, medians; LVIS train is extrapolated:",
            "",
            "| pass | vectors an image | s an image | LVIS train, hours | LVIS train, GB |",
            "|---|---|---|---|---|",
            *(
                f"| {names[name]} | {p['vectors']} | {p['seconds']:.2f} | "
                f"{p['lvis_train_hours']:.0f} | {p['lvis_train_gb']:.1f} |"
                for name, p in record["per_image"].items()
            ),
            "",
            "At the official D = 512, ViLD's 300 vectors are half of that, 31 GB and the boxes.",
            "",
            origin(record),
        ]
    )


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


# By section of the README, between <!-- NAME --> and <!-- /NAME -->.
SECTIONS = {
    "results": {
        "laptop_world.json": laptop_world_table,
        "laptop_world_time.json": laptop_time_table,
        "overfit16.json": partial(overfit_table, name="GridCLIP", config="overfit16.py"),
        "vild_overfit16.json": partial(overfit_table, name="ViLD-text", config="vild_overfit16.py"),
    },
    "speed": {
        "speed_cpu.json": speed_table,
        "teacher_passes_cpu.json": teacher_passes_table,
    },
}


def render(results: Path, section: str) -> str:
    """The tables of the section's result files that are there, in order."""
    parts = [
        table(json.loads((results / name).read_text()))
        for name, table in SECTIONS[section].items()
        if (results / name).is_file()
    ]
    return "\n\n".join(parts) + "\n"


def replace_section(text: str, name: str, section: str) -> str:
    """``text`` with what stands between the markers of ``name`` replaced.

    Raises:
        ValueError: the markers are not there.
    """
    before, start, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not start or not end:
        raise ValueError(f"The README lacks the markers <!-- {name} --> and <!-- /{name} -->.")
    return before + start + section + end + after


def update(text: str, results: Path) -> str:
    """``text`` with every section made anew."""
    for name in SECTIONS:
        text = replace_section(text, name, render(results, name))
    return text


def main() -> None:
    readme = PROJECT / "README.md"
    readme.write_text(update(readme.read_text(), PROJECT / "results"))
    print(readme)


if __name__ == "__main__":
    main()
