#!/usr/bin/env python
"""Fine-tune a laptop detector on a few pictures of six new categories: gain and loss.

    python -m laptop_world.fine_tuning \\
        --detectors output/reproduce/test/gridclip/seed{seed}/model_final.pth

Every recipe is run with 10, 30 and 100 pictures and every seed, and evaluated between the weights
before and after (WiSE-FT) on half of the validation split. Choices are made with --world dev. After
an interruption, give the same command again: finished runs are kept. The result is
OUTPUT/WORLD/fine_tuning.json with fine_tuning.png; with all seeds of the test world it is also
written to projects/GridCLIP/results, and says which recipes and sizes were not run.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from gridclip.files import write_json
from laptop_world.command import die_with_parent
from laptop_world.experiment import PROJECT
from laptop_world.fine_tuning_report import plot_fine_tuning, read_json
from laptop_world.fine_tuning_run import ALPHAS, GROUPS, RECIPES, Run, do_run
from laptop_world.record import ChangedError
from laptop_world.summary import statistics_of_seeds

SEEDS, PICTURES = (0, 1, 2, 3, 4), (10, 30, 100)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--detectors", required=True, metavar="FILE", help="weights; {seed} stands for the seed")
    add("--world", default="test", choices=("dev", "test"))
    add("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="NAME")
    add("--pictures", nargs="+", type=int, default=list(PICTURES), metavar="N")
    add("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="N")
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes, of a thread")
    add(
        "--override", nargs="+", default=[], metavar="KEY=VALUE", help="of configs/laptop/fine_tune"
    )
    add("--output", type=Path, default=Path("output/fine_tuning"), metavar="DIR")
    args = parser.parse_args(argv)
    if min(args.jobs, *args.pictures) < 1:
        parser.error("--jobs and --pictures: at least 1")
    return args


def is_for_results(args: argparse.Namespace) -> bool:
    """Whether it has all seeds, on the test world and as the config is."""
    return set(args.seeds) == set(SEEDS) and args.world == "test" and not args.override


def plan(args: argparse.Namespace) -> list[Run]:
    """The runs, the long ones first. Raises FileNotFoundError if a detector is missing."""
    detectors = {seed: args.detectors.format(seed=seed) for seed in args.seeds}
    for path in detectors.values():
        if not os.path.isfile(path):
            raise FileNotFoundError(f"--detectors: there is no {path}; train it first")
    kinds = [(r, n) for n in sorted(args.pictures, reverse=True) for r in args.recipes]
    runs = []
    for recipe, pictures in [*kinds, ("before", 0)]:
        for seed in args.seeds:
            folder = args.output / args.world / recipe / f"pictures{pictures}_seed{seed}"
            runs.append(
                Run(
                    recipe=recipe,
                    pictures=pictures,
                    seed=seed,
                    world=args.world,
                    detector=detectors[seed],
                    folder=str(folder),
                    overrides=(f"train.device={args.device}", *args.override),
                )
            )
    return runs


def run_all(runs: Sequence[Run], jobs: int) -> dict[str, str]:
    """Do what is not complete, in processes of one thread each. Returns the reasons by name of the
    runs that failed."""
    os.environ["OMP_NUM_THREADS"] = "1"
    left = [run for run in runs if not run.open_record().complete]
    failed = {}
    context = get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(jobs, context, initializer=die_with_parent) as pool:
        names = {pool.submit(do_run, run): run.name for run in left}
        progress = tqdm(total=len(runs), initial=len(runs) - len(left), unit="run")
        for future in as_completed(names):
            if error := future.exception():
                failed[names[future]] = f"{type(error).__name__}: {error}"
            progress.update()
            progress.set_postfix_str(names[future])
        progress.close()
    return failed


def summarise(runs: Sequence[Run]) -> dict:
    """By recipe, number of pictures and alpha, the AP of each group and its change: "mean", "std"
    (None for one seed), "n" and "values", a value a seed."""
    before = {r.seed: read_json(r.outcome)["ap"]["0"] for r in runs if r.recipe == "before"}
    summary: dict = {
        "before": {g: statistics_of_seeds([b[g] for b in before.values()]) for g in GROUPS}
    }
    cells: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        if run.recipe != "before":
            cells.setdefault((run.recipe, run.pictures), []).append(run)
    recipes: dict = {}
    for (recipe, pictures), seeds in sorted(cells.items(), key=lambda cell: cell[0][1]):
        by_seed = {run.seed: read_json(run.outcome)["ap"] for run in seeds}
        for alpha in map("{:g}".format, ALPHAS):
            cell = recipes.setdefault(recipe, {}).setdefault(str(pictures), {})[alpha] = {}
            for group in GROUPS:
                after = [found[alpha][group] for found in by_seed.values()]
                changes = [found[alpha][group] - before[s][group] for s, found in by_seed.items()]
                cell[group] = statistics_of_seeds(after)
                cell[f"{group}_change"] = statistics_of_seeds(changes)
    return {**summary, "recipes": {name: recipes[name] for name in RECIPES if name in recipes}}


def write_summary(args: argparse.Namespace, runs: Sequence[Run]) -> None:
    records = {run.name: run.open_record() for run in runs}
    made = [read_json(run.outcome)["made"] for run in runs]
    if others := [other for other in made if other != made[0]]:
        raise ChangedError(f"Runs of one table are of different machines: {made[0]}, {others[0]}")
    made_of = {
        "world": args.world,
        "device": args.device,
        **made[0],
        "seeds": args.seeds,
        "not_run": {
            "recipes": [name for name in RECIPES if name not in args.recipes],
            "pictures": [count for count in PICTURES if count not in args.pictures],
        },
        "config": runs[0].open_record().identity["config"],
        "recipe_overrides": {name: [kind, *own] for name, (kind, own) in RECIPES.items()},
        "detectors_sha256": {r.seed: records[r.name].identity["detector_sha256"] for r in runs},
        "seconds": {name: round(record.seconds, 1) for name, record in records.items()},
    }
    result = {**summarise(runs), **made_of}
    results = [PROJECT / "results"] if is_for_results(args) else []
    for folder in [args.output / args.world, *results]:
        write_json(folder / "fine_tuning.json", result, indent=1)
        plot_fine_tuning(result, folder / "fine_tuning.png")
        print(f"Written: {folder / 'fine_tuning.json'}, its plot beside it")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        runs = plan(args)
        failed = run_all(runs, args.jobs)
    except ChangedError as error:
        sys.exit(f"error: {error}: give another --output")
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    if failed:
        lines = [f"{name}: {reason}" for name, reason in failed.items()]
        sys.exit("\n".join([f"error: {len(failed)} of {len(runs)} runs failed:", *lines]))
    try:
        write_summary(args, runs)
    except ChangedError as error:
        sys.exit(f"error: {error}: give another --output")


if __name__ == "__main__":
    main()
