#!/usr/bin/env python
"""Run the laptop world's experiment: every variant with every seed, and their mean and spread.

    python -m laptop_world.reproduce
    python -m laptop_world.reproduce --world dev --variants gridclip closed_set --seeds 0 \
        --override train.max_iter=400 --output output/try
    python -m laptop_world.reproduce --snakemake --executor slurm --jobs 20

After an interruption give the same command again: finished runs are kept, others go on. The summary
is OUTPUT/WORLD/laptop_world.json; that of the whole grid on the test world is also written to
projects/GridCLIP/results. The whole grid also trains GridCLIP and ViLD for other numbers of steps:
accuracy against minutes is in laptop_world_time.json.

Snakemake runs the trainings. Its executors reach a cluster (Slurm: pip install
snakemake-executor-plugin-slurm) that shares this folder; such runs take one core each, and
--default-resources asks for memory and time. --snakemake --dry-run only lists what there is to do.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from gridclip.evaluation import read_results
from gridclip.files import write_json
from laptop_world.command import CommandError
from laptop_world.curves import curve_point, plot_curves, training_seconds
from laptop_world.experiment import (
    DISTILLED,
    EVALUATED,
    PROJECT,
    ROOT,
    SEEDS,
    VARIANTS,
    Grid,
    available_variants,
    config_file,
    is_whole_grid,
)
from laptop_world.grid import Plan, run_tasks
from laptop_world.record import ChangedError
from laptop_world.shapes import generate_shapes
from laptop_world.summary import plot_summary, summarise
from laptop_world.tables import VARIANTS as TITLES

RESULTS = PROJECT / "results"
COMPARED_BY_TIME = ("gridclip", "vild_text", "vild", "vild_ensemble")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--world", default="test", choices=("dev", "test"))
    add("--variants", nargs="+", choices=VARIANTS, metavar="NAME", help="default: all there are")
    add("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="N", help="default: 0 1 2")
    add("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs at once, of a thread")
    add("--override", nargs="+", default=[], metavar="KEY=VALUE", help="of every config")
    add("--output", type=Path, default=Path("output/reproduce"), metavar="DIR")
    add(
        "--snakemake",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="ARGUMENT",
        help="all that follows goes to snakemake, which then shows its own messages too",
    )
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error("--jobs: at least 1")
    if missing := [v for v in args.variants or () if not config_file(v).is_file()]:
        parser.error(f"there is no {config_file(missing[0])}")
    args.variants = list(dict.fromkeys(args.variants or available_variants()))
    args.seeds = list(dict.fromkeys(args.seeds))
    if set(DISTILLED) & set(args.variants) and "vild_text" not in args.variants:
        parser.error("vild and vild_ensemble learn from vild_text's proposals: add vild_text")
    for variant, trained in EVALUATED.items():
        if variant in args.variants and trained not in args.variants:
            parser.error(f"{variant} evaluates {trained}'s weights: add {trained}")
    return args


def generate_world(world: str, jobs: int) -> None:
    root = Path(os.getenv("DETECTRON2_DATASETS", "datasets")) / "shapes"
    if not all((root / f"shapes_{world}_{split}.json").is_file() for split in ("train", "val")):
        print(f"Generating the {world} world in {root}")
        generate_shapes(world, root, num_workers=jobs)


def write_summary(grid: Grid, folder: Path) -> None:
    """Write laptop_world.json, laptop_world_runs.json and laptop_world.png."""
    metrics: dict[str, list] = {}
    runs = {}
    for (variant, seed), task in grid.runs.items():
        record = read_results(Path(task.folder, "results.json"))
        metrics.setdefault(variant, []).append(record["metrics"]["bbox"])
        runs[f"{variant}/seed{seed}"] = {
            "seconds": round(task.open_record().seconds, 1),
            **{key: record[key] for key in ("seed", "commit", "versions", "device", "iterations")},
            **{key: task.identity[key] for key in ("clip_sha256", "annotations_sha256")},
            "config_file": str(config_file(variant).relative_to(ROOT)),
            "config": task.identity["config"],
        }
    names = {task.name for task in grid.runs.values()}
    preparation = {
        task.name: round(task.open_record().seconds, 1)
        for task in grid.tasks
        if task.name not in names
    }
    summary = summarise(metrics)
    write_json(folder / "laptop_world.json", summary, indent=1)
    write_json(
        folder / "laptop_world_runs.json",
        {"runs": runs, "preparation_seconds": preparation},
        indent=1,
    )
    plot_summary(summary, folder / "laptop_world.png")
    print(f"Written: {folder / 'laptop_world.json'}, its runs and its plot beside it")


def write_curves(grid: Grid, folder: Path) -> None:
    """Write laptop_world_time.json and laptop_world_time.png: accuracy against minutes.

    What comes before a training: the teacher's embeddings and ViLD's proposals. The training of
    ViLD-text, whose region proposal network makes those, is left out, in ViLD's favour.
    """
    seconds = {task.name: task.open_record().seconds for task in grid.tasks}
    regions = ["vild_text proposals", "vild preparation"]
    before = {"gridclip": ["gridclip preparation"], "vild": regions, "vild_ensemble": regions}
    curves = {}
    for variant in COMPARED_BY_TIME:
        lengths: dict[int, list[Path]] = {}
        for (name, _), task in [*grid.runs.items(), *grid.lengths.items()]:
            if name == variant:
                steps = task.identity["config"]["train"]["max_iter"]
                lengths.setdefault(steps, []).append(Path(task.folder))
        curves[variant] = {
            "preparation_minutes": sum(seconds[name] for name in before.get(variant, ())) / 60,
            "points": [
                curve_point(
                    [read_results(run / "results.json")["metrics"]["bbox"] for run in runs],
                    [training_seconds(run, steps) for run in runs],
                    steps,
                )
                for steps, runs in sorted(lengths.items())
            ],
        }
    write_json(folder / "laptop_world_time.json", curves, indent=1)
    plot_curves(curves, TITLES, folder / "laptop_world_time.png")


def failures(reasons: dict[str, str], tasks: int) -> str:
    listed = "\n".join(f"{name}: {reason}" for name, reason in reasons.items())
    return (
        f"error: {len(reasons)} of {tasks} are not complete:\n{listed}\n"
        "What is done is kept; the same command goes on."
    )


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if find_spec("snakemake") is None:
        sys.exit("error: Snakemake is missing: pip install -r requirements-laptop.txt")
    try:
        generate_world(args.world, args.jobs)
        grid = Grid(args)
        incomplete = run_tasks(Plan(grid.tasks, args.jobs), grid.folder, args.snakemake)
    except ChangedError as error:
        sys.exit(f"error: {error}. Remove its folder, or give another --output.")
    except CommandError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted. What is done is kept; the same command goes on.")
    if {"--dry-run", "-n"} & set(args.snakemake):
        return
    if incomplete:
        sys.exit(failures(incomplete, len(grid.tasks)))
    write_summary(grid, grid.folder)
    if is_whole_grid(args):
        write_summary(grid, RESULTS)
        write_curves(grid, RESULTS)
        print("Then: python scripts/update_results_tables.py")


if __name__ == "__main__":
    main()
