#!/usr/bin/env python
"""Run the laptop world's experiment: every variant with every seed, and their mean and spread.

    python -m laptop_world.reproduce
    python -m laptop_world.reproduce --world dev --variants gridclip closed_set --seeds 0 \
        --override train.max_iter=400 --output output/try

After an interruption give the same command again: finished runs are kept, others go on. The summary
is OUTPUT/WORLD/laptop_world.json; that of the whole grid on the test world is also written to
projects/GridCLIP/results. The whole grid also trains GridCLIP and ViLD for other numbers of steps:
accuracy against minutes is in laptop_world_time.json.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import LazyConfig
from omegaconf import DictConfig

from gridclip.evaluation import read_results
from gridclip.files import write_json
from gridclip.text import TextEmbeddings
from laptop_world.curves import curve_point, plot_curves, training_seconds
from laptop_world.grid import Task, run_tasks
from laptop_world.record import ChangedError, TaskRecord, run_identity
from laptop_world.shapes import generate_shapes
from laptop_world.summary import plot_summary, summarise
from laptop_world.tables import VARIANTS as TITLES

ROOT = Path(__file__).resolve().parents[3]
PROJECT = ROOT / "projects/GridCLIP"
RESULTS = PROJECT / "results"
VARIANTS = (
    *("gridclip", "whole_image_alignment", "no_image_alignment", "closed_set"),
    *("random_init", "classification_init", "light_towers"),
    *("slow_backbone", "no_dense_scores", "grid_level_alone"),
    *("vild_text", "vild", "vild_ensemble"),
)
EVALUATED = {"no_dense_scores": "gridclip", "grid_level_alone": "slow_backbone"}  # whose weights
DISTILLED = ("vild", "vild_ensemble")  # from region embeddings of ViLD-text's proposals
SEEDS = (0, 1, 2)
# The whole grid has fewer seeds of side lines, and of what takes longest.
FEWER_SEEDS = {"slow_backbone": 2, "grid_level_alone": 2, "vild_text": 2, "vild_ensemble": 2}
# Numbers of steps that the whole grid trains with the first seed besides the configs' own. The
# longest first, so that all cores have work until the end.
LENGTHS = {
    "vild_text": (4000, 2000, 1000, 250),
    "vild": (1000, 250),
    "gridclip": (4000, 2000, 500, 250, 125),
}
COMPARED_BY_TIME = ("gridclip", "vild_text", "vild", "vild_ensemble")
WARMUP_STEPS = 50


def config_file(variant: str) -> Path:
    return PROJECT / f"configs/laptop/{variant}.py"


def available_variants() -> list[str]:
    return [variant for variant in VARIANTS if config_file(variant).is_file()]


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
            parser.error(f"{variant} is {trained}'s weights: add {trained}")
    return args


class Grid:
    """The tasks of the experiment.

    Before a variant's runs comes its preparation, a dry run, one after the other: it completes the
    text embeddings and the teacher's embeddings, which the runs share.
    """

    def __init__(self, args: argparse.Namespace):
        self.folder = args.output / args.world
        self.seeds = args.seeds
        self.overrides = [f"shapes.world={args.world}", *args.override]
        self.tasks: list[Task] = []
        self.runs: dict[tuple[str, int], Task] = {}
        self.lengths: dict[tuple[str, int], Task] = {}
        self._last_preparation = None
        for variant in args.variants:
            if variant not in (*DISTILLED, *EVALUATED):
                self._add_preparation(variant)
        fewer = FEWER_SEEDS if is_whole_grid(args) else {}
        runs = [
            (variant, seed)
            for i, seed in enumerate(args.seeds)
            for variant in args.variants
            if i < fewer.get(variant, len(args.seeds))
        ]
        for variant, seed in runs:
            if variant not in DISTILLED:
                self._add_run(variant, seed)
        distilled = [variant for variant in args.variants if variant in DISTILLED]
        if distilled:
            self._add_proposals(distilled[0])
            for variant in distilled:
                self._add_preparation(variant)
        for variant, seed in runs:
            if variant in DISTILLED:
                self._add_run(variant, seed)
        if is_whole_grid(args):
            for variant, lengths in LENGTHS.items():
                for steps in lengths:
                    self._add_length(variant, steps)

    def config(
        self, variant: str, folder: Path, seed: int, *overrides: str
    ) -> tuple[DictConfig, list[str]]:
        overrides = [
            *(*self.overrides, f"train.seed={seed}", f"train.output_dir={folder}"),
            *overrides,
        ]
        cfg = LazyConfig.load(str(config_file(variant)))
        return LazyConfig.apply_overrides(cfg, overrides), overrides

    def _add(self, name: str, folder: Path, cfg: DictConfig, command: list, **fields) -> Task:
        record = TaskRecord(folder / "record.json", run_identity(cfg))
        task = Task(
            name, [sys.executable, *map(str, command)], record, folder / "log.txt", **fields
        )
        self.tasks.append(task)
        return task

    def _add_preparation(self, variant: str) -> None:
        folder = self.folder / variant / "preparation"
        cfg, overrides = self.config(variant, folder, self.seeds[0])
        check_text_embeddings(cfg)
        command = [PROJECT / "train_net.py", "--config-file", config_file(variant), "--dry-run"]
        needs = [self._last_preparation] if self._last_preparation else []
        if variant == "classification_init":
            needs.append(self._add_classifier(cfg))
        if variant in DISTILLED:
            needs.append("vild_text proposals")
        task = self._add(f"{variant} preparation", folder, cfg, [*command, *overrides], needs=needs)
        self._last_preparation = task.name

    def _add_classifier(self, cfg: DictConfig) -> str:
        """The training of what ``classification_init`` starts from; returns the task's name."""
        command = ["-m", "laptop_world.pretrain_classifier", "--world", cfg.shapes.world]
        command += ["--output", cfg.train.init_checkpoint]
        folder = self.folder / "classification_init" / "pretraining"
        return self._add("classification_init pretraining", folder, cfg, command).name

    def _add_run(self, variant: str, seed: int) -> None:
        """A training, or the evaluation of another variant's weights."""
        name, folder = f"{variant} seed {seed}", self.folder / variant / f"seed{seed}"
        if trained := EVALUATED.get(variant):
            weights = self.folder / trained / f"seed{seed}/model_final.pth"
            own = [f"train.init_checkpoint={weights}"]
            task = self._add_train_net(
                name, variant, folder, seed, own, mode="--eval-only", need=f"{trained} seed {seed}"
            )
        else:
            task = self._add_train_net(name, variant, folder, seed, group=variant)
        self.runs[variant, seed] = task

    def _add_length(self, variant: str, steps: int) -> None:
        """A training of another number of steps, with the first seed."""
        name, folder = f"{variant} {steps} steps", self.folder / variant / f"steps{steps}"
        own = [f"train.max_iter={steps}", f"lr_multiplier.warmup_length={WARMUP_STEPS / steps}"]
        self.lengths[variant, steps] = self._add_train_net(
            name, variant, folder, self.seeds[0], own, group=f"{variant} {steps}"
        )

    def _add_train_net(
        self,
        name: str,
        variant: str,
        folder: Path,
        seed: int,
        own: Sequence[str] = (),
        *,
        mode: str = "--resume",
        need: str | None = None,
        group: str | None = None,
    ) -> Task:
        cfg, overrides = self.config(variant, folder, seed, *own)
        command = [PROJECT / "train_net.py", "--config-file", config_file(variant), mode]
        return self._add(
            name,
            folder,
            cfg,
            [*command, *overrides],
            needs=[need or f"{variant} preparation"],
            group=group,
            outcome=lambda: outcome(folder),
        )

    def _add_proposals(self, variant: str) -> None:
        """Of the first seed's ViLD-text, where the configs of the distilled variants read them."""
        folder = self.folder / "vild_text" / "proposals"
        teacher, seed = self.folder / "vild_text" / f"seed{self.seeds[0]}", self.seeds[0]
        cfg, overrides = self.config("vild_text", teacher, seed)
        output = self.config(variant, folder, seed)[0].clip.proposals
        command = [ROOT / "scripts/precompute.py", "proposals"]
        command += ["--config-file", config_file("vild_text")]
        command += ["--weights", teacher / "model_final.pth", "--output", output]
        command += ["--max-proposals", 32, "--num-workers", 0, "--opts", *overrides]
        needs = [f"vild_text seed {seed}"]
        self._add("vild_text proposals", folder, cfg, command, needs=needs)


def outcome(folder: Path) -> str:
    metrics = read_results(folder / "results.json")["metrics"]["bbox"]
    return " ".join(f"{name} {metrics[name]:.1f}" for name in ("AP", "APr", "APc", "APf"))


def check_text_embeddings(cfg: DictConfig) -> None:
    """Raises ChangedError if a file of another CLIP model is there."""
    path = Path(cfg.model.classifier.text_embeddings)
    if not path.is_file():
        return
    embedded = TextEmbeddings.load(path).clip_sha256
    if embedded != run_identity(cfg)["clip_sha256"]:
        raise ChangedError(f"{path} is of another CLIP model than {cfg.clip.weights}")


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
        record = read_results(task.log_file.parent / "results.json")
        metrics.setdefault(variant, []).append(record["metrics"]["bbox"])
        identity = task.record.identity
        runs[f"{variant}/seed{seed}"] = {
            "seconds": round(task.record.seconds, 1),
            **{key: record[key] for key in ("seed", "commit", "versions", "device", "iterations")},
            **{key: identity[key] for key in ("clip_sha256", "annotations_sha256")},
            "config_file": str(config_file(variant).relative_to(ROOT)),
            "config": identity["config"],
        }
    names = {task.name for task in grid.runs.values()}
    preparation = {
        task.name: round(task.record.seconds, 1) for task in grid.tasks if task.name not in names
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
    seconds = {task.name: task.record.seconds for task in grid.tasks}
    regions = ["vild_text proposals", "vild preparation"]
    before = {"gridclip": ["gridclip preparation"], "vild": regions, "vild_ensemble": regions}
    curves = {}
    for variant in COMPARED_BY_TIME:
        lengths: dict[int, list[Path]] = {}
        for (name, _), task in [*grid.runs.items(), *grid.lengths.items()]:
            if name == variant:
                steps = task.record.identity["config"]["train"]["max_iter"]
                lengths.setdefault(steps, []).append(task.log_file.parent)
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


def is_whole_grid(args: argparse.Namespace) -> bool:
    everything = set(args.variants) == set(available_variants()) and set(args.seeds) == set(SEEDS)
    return everything and args.world == "test" and not args.override


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        generate_world(args.world, args.jobs)
        grid = Grid(args)
    except ChangedError as error:
        sys.exit(f"error: {error}. Remove its folder, or give another --output.")
    failed = run_tasks(
        grid.tasks,
        args.jobs,
        env={"OMP_NUM_THREADS": "1"},
        say=lambda line: print(line, flush=True),
    )
    if failed:
        sys.exit(f"error: {len(failed)} of {len(grid.tasks)} failed: {', '.join(failed)}")
    write_summary(grid, grid.folder)
    if is_whole_grid(args):
        write_summary(grid, RESULTS)
        write_curves(grid, RESULTS)
        print("Then: python scripts/update_results_tables.py")


if __name__ == "__main__":
    main()
