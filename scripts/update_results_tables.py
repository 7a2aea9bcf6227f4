"""Write the tables of docs/results.md and docs/speed.md from projects/GridCLIP/results.

python scripts/update_results_tables.py
"""

import json
from functools import partial
from pathlib import Path

from benchmark.tables import origin, speed_table, teacher_passes_table
from laptop_world.tables import laptop_time_table, laptop_world_table

PROJECT = Path(__file__).parents[1] / "projects/GridCLIP"


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
    return "\n\n".join(parts).replace("](results/", "](../projects/GridCLIP/results/") + "\n"


def replace_section(text: str, name: str, section: str) -> str:
    """``text`` with what stands between the markers of ``name`` replaced.

    Raises:
        ValueError: the markers are not there.
    """
    before, start, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not start or not end:
        raise ValueError(f"The page lacks the markers <!-- {name} --> and <!-- /{name} -->.")
    return before + start + section + end + after


def update(name: str, results: Path) -> tuple[Path, str]:
    """The page in docs/ that has the section, and its text with new tables."""
    page = PROJECT.parents[1] / "docs" / f"{name}.md"
    return page, replace_section(page.read_text(), name, render(results, name))


def main() -> None:
    for name in SECTIONS:
        page, text = update(name, PROJECT / "results")
        page.write_text(text)
        print(page)


if __name__ == "__main__":
    main()
