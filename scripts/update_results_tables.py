"""Write the tables of pages in docs/ from projects/GridCLIP/results.

python scripts/update_results_tables.py
"""

import argparse
import json
from functools import partial
from pathlib import Path

from benchmark.peers.tables import peers_table
from benchmark.tables import (
    first_steps_table,
    int8_table,
    model_zoo_table,
    overfit_table,
    own_data_table,
    predictor_table,
    speed_table,
    teacher_passes_table,
)
from laptop_world.fine_tuning_report import fine_tuning_table
from laptop_world.tables import (
    examples_table,
    laptop_differences_table,
    laptop_runs_note,
    laptop_time_table,
    laptop_world_table,
    thresholds_table,
)

PROJECT = Path(__file__).parents[1] / "projects/GridCLIP"


# By page of docs/, which has the tables between <!-- NAME --> and <!-- /NAME -->: the files of
# results and what makes a table of each.
SECTIONS = {
    "results": {
        "laptop_world.json": laptop_world_table,
        "laptop_world_runs.json": laptop_runs_note,
        "laptop_world_differences.json": laptop_differences_table,
        "laptop_world_time.json": laptop_time_table,
        "examples.json": examples_table,
        "overfit16.json": partial(overfit_table, name="GridCLIP", config="overfit16.py"),
        "vild_overfit16.json": partial(overfit_table, name="ViLD-text", config="vild_overfit16.py"),
    },
    "training": {"first_steps_h100.json": first_steps_table},
    "fine-tuning": {"fine_tuning.json": fine_tuning_table},
    "own-data": {"own_data_bccd.json": own_data_table},
    "own-vocabulary": {"thresholds.json": thresholds_table},
    "speed": {
        "speed_cpu.json": speed_table,
        "speed_h100.json": partial(speed_table, name="speed_h100"),
        "speed_h100_bfloat16.json": partial(speed_table, name="speed_h100_bfloat16"),
        "peers_cpu.json": peers_table,
        "teacher_passes_cpu.json": teacher_passes_table,
        "predictor.json": predictor_table,
    },
    "export": {"int8_accuracy.json": int8_table},
    "model-zoo": {"model_zoo.json": model_zoo_table},
}


def render(results: Path, section: str) -> str:
    """The tables of a section, in order. Files that are not there are left out."""
    parts = [
        table(json.loads((results / name).read_text()))
        for name, table in SECTIONS[section].items()
        if (results / name).is_file()
    ]
    return "\n\n".join(parts).replace("](results/", "](../projects/GridCLIP/results/") + "\n"


def replace_section(text: str, name: str, section: str) -> str:
    """``text`` with ``section`` between the markers of ``name``.

    Raises:
        ValueError: a marker is missing.
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
    raw = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=raw).parse_args()
    for name in SECTIONS:
        page, text = update(name, PROJECT / "results")
        page.write_text(text)
        print(page)


if __name__ == "__main__":
    main()
