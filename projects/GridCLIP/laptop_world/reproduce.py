#!/usr/bin/env python
"""Run the laptop world's experiment: every variant with every seed, and their mean and spread.

    python -m laptop_world.reproduce
    python -m laptop_world.reproduce --lengths      # the same detectors for other numbers of steps
    python -m laptop_world.reproduce --publish      # write projects/GridCLIP/results
    python -m laptop_world.reproduce --world dev --variants gridclip closed_set --seeds 0 \
        --override train.max_iter=400 --output output/try
    python -m laptop_world.reproduce --snakemake --executor slurm --jobs 20

After an interruption give the same command again: finished runs are kept, others go on. What they
need besides, such as the weights that a variant evaluates, is run, too. The summary of the variants
that are complete is OUTPUT/WORLD/laptop_world.json; what is not is printed.

--publish runs nothing. It writes what is complete of the whole experiment on the test world, and
says what is not. Runs published before stay where they fit, so seeds and variants can be added one
by one: the same config, processor, data and CLIP.

Snakemake runs the trainings. Its executors reach a cluster (Slurm: pip install
snakemake-executor-plugin-slurm) that shares this folder; such runs take one core each, and
--snakemake --default-resources asks for memory and time. --snakemake --dry-run starts nothing: it
lists what there is to do and writes OUTPUT/WORLD/plan.json, whose tasks any other scheduler may
start, each by `python -m laptop_world.run PLAN.json NAME`.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from laptop_world.command import CommandError
from laptop_world.experiment import (
    CURVES,
    PROJECT,
    SEEDS,
    VARIANTS,
    Grid,
    available_curves,
    available_variants,
    config_file,
)
from laptop_world.grid import Plan, run_tasks
from laptop_world.outcomes import complete_runs, write_curves, write_rows
from laptop_world.record import ChangedError
from laptop_world.rows import finished_rows
from laptop_world.shapes import generate_shapes

RESULTS = PROJECT / "results"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--world", default="test", choices=("dev", "test"))
    add("--variants", nargs="+", choices=VARIANTS, metavar="NAME", help="default: all there are")
    seeds = " ".join(map(str, SEEDS))
    add("--seeds", nargs="+", type=int, metavar="N", help=f"default: {seeds}; of --lengths: 0")
    add("--lengths", action="store_true", help="train other numbers of steps, and only these")
    add("--publish", action="store_true", help="only write projects/GridCLIP/results")
    add("--device", default="cpu", choices=("cpu", "cuda"), help="of every run; default: cpu")
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
    part = args.variants or args.seeds or args.lengths or args.override or args.world != "test"
    if args.publish and part:
        parser.error("--publish is of the whole experiment: give --device and --output alone")
    if missing := [v for v in args.variants or () if not config_file(v).is_file()]:
        parser.error(f"there is no {config_file(missing[0])}")
    if args.lengths and not set(args.variants or ()) <= set(CURVES):
        parser.error(f"--lengths is of {', '.join(CURVES)}: name some of these as --variants")
    default = available_curves() if args.lengths else available_variants()
    args.variants = list(dict.fromkeys(args.variants or default))
    args.seeds = list(dict.fromkeys(args.seeds or (SEEDS[:1] if args.lengths else SEEDS)))
    return args


def generate_world(world: str, jobs: int) -> None:
    root = Path(os.getenv("DETECTRON2_DATASETS", "datasets")) / "shapes"
    if not all((root / f"shapes_{world}_{split}.json").is_file() for split in ("train", "val")):
        print(f"Generating the {world} world in {root}")
        generate_shapes(world, root, num_workers=jobs)


def write_outcomes(grid: Grid, args: argparse.Namespace) -> None:
    """Write the results of what is complete, to projects/GridCLIP/results with --publish."""
    records = complete_runs(grid)
    folder = RESULTS if args.publish else grid.folder
    variants = VARIANTS if args.publish else args.variants
    if args.lengths:
        write_curves(grid, finished_rows(grid, records, variants), folder)
    else:
        missing = write_rows(grid, records, variants, args.seeds, folder, publish=args.publish)
        print(not_run_text(missing))
    if args.publish:
        print("Then: python scripts/update_results_tables.py")


def not_run_text(missing: Mapping[str, Sequence[int]]) -> str:
    if not missing:
        return "All variants have all seeds."
    lines = [f"  {variant}: {' '.join(map(str, seeds))}" for variant, seeds in missing.items()]
    return "\n".join(["Not run, by variant the seeds:", *lines])


def failures(reasons: Mapping[str, str], tasks: int) -> str:
    listed = "\n".join(f"{name}: {reason}" for name, reason in reasons.items())
    return (
        f"error: {len(reasons)} of {tasks} are not complete:\n{listed}\n"
        "What is done is kept; the same command goes on."
    )


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if not args.publish and find_spec("snakemake") is None:
        sys.exit("error: Snakemake is missing: pip install -r requirements-laptop.txt")
    try:
        generate_world(args.world, args.jobs)
        grid = Grid(args)
        incomplete: dict[str, str] = {}
        if not args.publish:
            incomplete = run_tasks(Plan(grid.tasks, args.jobs), grid.folder, args.snakemake)
    except ChangedError as error:
        sys.exit(f"error: {error}. Remove its folder, or give another --output.")
    except CommandError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted. What is done is kept; the same command goes on.")
    if {"--dry-run", "-n"} & set(args.snakemake):
        return
    try:
        write_outcomes(grid, args)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if incomplete:
        sys.exit(failures(incomplete, len(grid.tasks)))


if __name__ == "__main__":
    main()
