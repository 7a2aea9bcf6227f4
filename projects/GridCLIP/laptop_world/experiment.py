"""The laptop world's experiment as tasks: every variant with every seed, and what comes before."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from gridclip.clip_weights import clip_file, sha256_of_file
from gridclip.settings import load_config
from gridclip.text import TextEmbeddings
from laptop_world.grid import Task
from laptop_world.identity import run_identity
from laptop_world.record import ChangedError

ROOT = Path(__file__).resolve().parents[3]
PROJECT = ROOT / "projects/GridCLIP"
PRECOMPUTE = ROOT / "scripts/precompute.py"
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
WARMUP_STEPS = 50


def config_file(variant: str) -> Path:
    return PROJECT / f"configs/laptop/{variant}.py"


def available_variants() -> list[str]:
    return [variant for variant in VARIANTS if config_file(variant).is_file()]


def is_whole_grid(args: argparse.Namespace) -> bool:
    """Whether it is all of the experiment, on the test world and as the configs are."""
    everything = set(args.variants) == set(available_variants()) and set(args.seeds) == set(SEEDS)
    return everything and args.world == "test" and not args.override


class Grid:
    """The tasks of the experiment.

    Before a variant's runs comes its preparation, a dry run, one after the other: it completes the
    text embeddings and the teacher's embeddings, which the runs share.

    Attributes:
        folder: of all tasks.
        tasks: in the order in which they start where nothing holds them up.
        runs: those of the configs' own lengths, by variant and seed.
        lengths: trainings of other lengths, by variant and number of steps.

    Raises:
        ChangedError: what is there was made with other settings than a task's.
    """

    def __init__(self, args: argparse.Namespace):
        self.folder: Path = args.output / args.world
        self.seeds = args.seeds
        self.overrides = [f"shapes.world={args.world}", *args.override]
        self.tasks: list[Task] = []
        self.runs: dict[tuple[str, int], Task] = {}
        self.lengths: dict[tuple[str, int], Task] = {}
        self._last_preparation: str | None = None
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
        self, variant: str, folder: Path, seed: int, *own: str
    ) -> tuple[DictConfig, list[str]]:
        """A variant's config, and the overrides of its file that make it."""
        overrides = [*self.overrides, f"train.seed={seed}", f"train.output_dir={folder}", *own]
        return load_config(config_file(variant), overrides), overrides

    def _add(self, name: str, folder: Path, cfg: DictConfig, command: list, **fields) -> Task:
        command = [sys.executable, *map(str, command)]
        task = Task(name, str(folder), command, run_identity(cfg), **fields)
        task.open_record()  # refuses what was made with other settings
        self.tasks.append(task)
        return task

    def _add_preparation(self, variant: str) -> None:
        folder = self.folder / variant / "preparation"
        cfg, overrides = self.config(variant, folder, self.seeds[0])
        check_text_embeddings(cfg)
        needs = [self._last_preparation] if self._last_preparation else []
        if variant == "classification_init":
            needs.append(self._add_classifier(cfg))
        if variant in DISTILLED:
            needs.append("vild_text proposals")
        name = self._last_preparation = f"{variant} preparation"
        command = train_net(variant, "--dry-run", overrides)
        self._add(name, folder, cfg, command, needs=needs)

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
            cfg, overrides = self.config(variant, folder, seed, f"train.init_checkpoint={weights}")
            command = train_net(variant, "--eval-only", overrides)
            task = self._add(name, folder, cfg, command, needs=[f"{trained} seed {seed}"])
        else:
            task = self._add_training(name, variant, folder, seed, group=variant)
        self.runs[variant, seed] = task

    def _add_length(self, variant: str, steps: int) -> None:
        """A training of another number of steps, with the first seed."""
        name, folder = f"{variant} {steps} steps", self.folder / variant / f"steps{steps}"
        own = [f"train.max_iter={steps}", f"lr_multiplier.warmup_length={WARMUP_STEPS / steps}"]
        self.lengths[variant, steps] = self._add_training(
            name, variant, folder, self.seeds[0], *own, group=f"{variant} {steps}"
        )

    def _add_training(
        self, name: str, variant: str, folder: Path, seed: int, *own: str, group: str
    ) -> Task:
        cfg, overrides = self.config(variant, folder, seed, *own)
        command = train_net(variant, "--resume", overrides)
        needs = [f"{variant} preparation"]
        return self._add(name, folder, cfg, command, needs=needs, group=group)

    def _add_proposals(self, variant: str) -> None:
        """Of the first seed's ViLD-text, where the configs of the distilled variants read them."""
        folder = self.folder / "vild_text" / "proposals"
        teacher, seed = self.folder / "vild_text" / f"seed{self.seeds[0]}", self.seeds[0]
        cfg, overrides = self.config("vild_text", teacher, seed)
        output = self.config(variant, folder, seed)[0].clip.proposals
        command = [PRECOMPUTE, "proposals", "--config-file", config_file("vild_text")]
        command += ["--weights", teacher / "model_final.pth", "--output", output]
        command += ["--max-proposals", 32, "--num-workers", 0, "--opts", *overrides]
        needs = [f"vild_text seed {seed}"]
        self._add("vild_text proposals", folder, cfg, command, needs=needs)


def train_net(variant: str, mode: str, overrides: Sequence[str]) -> list:
    return [PROJECT / "train_net.py", "--config-file", config_file(variant), mode, *overrides]


def check_text_embeddings(cfg: DictConfig) -> None:
    """Raises ChangedError if the config's file exists and another CLIP model made it."""
    path = Path(cfg.model.classifier.text_embeddings)
    if not path.is_file():
        return
    embedded = TextEmbeddings.load(path).clip_sha256
    if embedded != sha256_of_file(clip_file(cfg.clip.weights)):
        raise ChangedError(f"{path} was made by another CLIP model than {cfg.clip.weights}")
