"""The laptop world's experiment as tasks: every variant with every seed, and what comes before."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf

from gridclip.clip_weights import clip_file
from gridclip.files import sha256_of_file
from gridclip.settings import load_config
from gridclip.text import TextEmbeddings
from laptop_world.grid import Task
from laptop_world.identity import run_identity, without_folders
from laptop_world.record import ChangedError

ROOT = Path(__file__).resolve().parents[3]
PROJECT = ROOT / "projects/GridCLIP"
VARIANTS = (
    *("gridclip", "gridclip_4000", "no_distribution", "fcos_assignment", "no_dense_scores"),
    *("no_image_alignment", "grid_image_alignment", "aligned_slow_backbone"),
    *("whole_image_alignment", "closed_set", "random_init", "classification_init"),
    *("vild_text", "vild", "vild_ensemble"),
    *("vild_text_dense", "vild_dense", "vild_ensemble_dense", "fvlm"),
)
EVALUATED = {  # whose weights
    "no_dense_scores": "gridclip",
    "vild_text_dense": "vild_text",
    "vild_dense": "vild",
    "vild_ensemble_dense": "vild_ensemble",
}
DISTILLED = ("vild", "vild_ensemble")  # from region embeddings of ViLD-text's proposals
SEEDS = (0, 1, 2, 3, 4)
# Accuracy against time: the variants of each curve.
CURVES = {
    "gridclip": ("gridclip", "gridclip_4000"),
    **{name: (name,) for name in ("vild_text_dense", "vild_dense", "vild_ensemble_dense", "fvlm")},
}
# Numbers of steps that --lengths trains besides the configs' own.
LENGTHS = {
    **dict.fromkeys(("vild_ensemble", "vild", "vild_text", "fvlm"), (4000, 2000, 1000, 250)),
    "gridclip": (2000, 500, 250),
}
WARMUP_STEPS = 50
# What is computed from CLIP lies in the experiment's folder, so that its seconds are counted.
_EMBEDDINGS = ("text_embeddings", "image_embeddings", "proposals", "region_embeddings")


class Run(NamedTuple):
    """A training, or the evaluation of another variant's weights.

    ``steps`` is None for the config's own number.
    """

    variant: str
    seed: int
    steps: int | None = None

    @classmethod
    def of_row(cls, row: str, seed: int) -> "Run":
        variant, _, steps = row.partition(" steps ")
        return cls(variant, seed, int(steps) if steps else None)

    @property
    def row(self) -> str:
        """The name that it has in common with the runs of other seeds."""
        return self.variant + self._steps

    @property
    def name(self) -> str:
        return f"{self.variant} seed {self.seed}{self._steps}"

    @property
    def _steps(self) -> str:
        return f" steps {self.steps}" if self.steps else ""

    @property
    def folder(self) -> Path:
        """Relative to that of all tasks."""
        steps = (f"steps{self.steps}",) if self.steps else ()
        return Path(self.variant, *steps, f"seed{self.seed}")

    @property
    def training(self) -> "Run":
        """The run that makes the weights: this one, or that of another variant."""
        return self._replace(variant=EVALUATED.get(self.variant, self.variant))


FIRST_SEED = SEEDS[0]  # of preparations and of the ViLD-text that makes the proposals


def config_file(variant: str) -> Path:
    return PROJECT / f"configs/laptop/{variant}.py"


def available_variants() -> list[str]:
    return [variant for variant in VARIANTS if config_file(variant).is_file()]


def available_curves() -> list[str]:
    return [variant for variant in CURVES if config_file(variant).is_file()]


def asked_runs(args: argparse.Namespace) -> list[Run]:
    """The runs that ``reproduce``'s arguments ask for; what these need is not among them.

    Of other lengths the longest come first, so that all cores have work until the end.
    """
    rows = [Run(variant, seed) for seed in args.seeds for variant in args.variants]
    lengths = [
        Run(variant, seed, steps)
        for seed in args.seeds
        for variant in args.variants
        if variant in CURVES
        for steps in LENGTHS[EVALUATED.get(variant, variant)]
    ]
    lengths.sort(key=lambda run: -(run.steps or 0))
    if args.publish:
        return rows + lengths
    return lengths if args.lengths else rows


class Grid:
    """The tasks of the experiment.

    Before a variant's runs comes its preparation, a dry run, one after the other: it completes the
    text embeddings and the teacher's embeddings, which the runs share.

    Attributes:
        folder: of all tasks.
        tasks: in the order in which they start where nothing holds them up.
        runs: those of the tasks that are runs.

    Raises:
        ChangedError: what is there was made with other settings than a task's.
    """

    def __init__(self, args: argparse.Namespace):
        self.folder: Path = args.output / args.world
        self.overrides = [f"shapes.world={args.world}", f"train.device={args.device}"]
        self.own_overrides: list[str] = args.override
        self.tasks: list[Task] = []
        self.runs: dict[Run, Task] = {}
        self._preparations: dict[str, str] = {}  # names of tasks by variant
        self._bases: dict[str, tuple[DictConfig, list[str]]] = {}
        runs = asked_runs(args)
        trained = dict.fromkeys(run.training.variant for run in runs)
        for variant in sorted(trained, key=lambda variant: variant in DISTILLED):
            self._add_preparation(variant)
        for run in runs:
            self._add_run(run)

    def config(
        self, variant: str, folder: Path, seed: int, *own: str
    ) -> tuple[DictConfig, list[str]]:
        """A variant's config, and the overrides of its file that make it."""
        base, common = self._base(variant)
        overrides = [f"train.seed={seed}", f"train.output_dir={folder}", *own]
        return load_config(base, overrides), [*common, *overrides]

    def _base(self, variant: str) -> tuple[DictConfig, list[str]]:
        """The same for all runs of a variant."""
        if variant not in self._bases:
            cfg = LazyConfig.load(str(config_file(variant)))
            embeddings = embeddings_below(self.folder / "embeddings", cfg)
            overrides = [*self.overrides, *embeddings, *self.own_overrides]
            self._bases[variant] = load_config(cfg, overrides), overrides
        return self._bases[variant]

    def _add(self, name: str, folder: Path, cfg: DictConfig, command: list, **fields) -> str:
        """Add a task and return its name."""
        data = os.getenv("DETECTRON2_DATASETS", "datasets").rstrip("/")
        identity = without_folders(run_identity(cfg), {str(self.folder): "OUTPUT", data: "DATA"})
        task = Task(name, str(folder), [str(part) for part in command], identity, **fields)
        task.open_record()  # refuses what was made with other settings
        self.tasks.append(task)
        return name

    def _add_preparation(self, variant: str) -> str:
        if variant in self._preparations:
            return self._preparations[variant]
        folder = self.folder / variant / "preparation"
        cfg, overrides = self.config(variant, folder, FIRST_SEED)
        check_text_embeddings(cfg)
        needs = []
        if variant == "classification_init":
            needs.append(self._add_classifier(cfg))
        if variant in DISTILLED:
            needs.append(self._add_proposals(variant))
        needs += list(self._preparations.values())[-1:]
        command = train_net(variant, "--dry-run", overrides)
        name = self._add(f"{variant} preparation", folder, cfg, command, needs=needs)
        self._preparations[variant] = name
        return name

    def _add_classifier(self, cfg: DictConfig) -> str:
        """The training of what ``classification_init`` starts from."""
        command = ["-m", "laptop_world.pretrain_classifier", "--world", cfg.shapes.world]
        command += ["--output", cfg.train.init_checkpoint]
        folder = self.folder / "classification_init" / "pretraining"
        return self._add("classification_init pretraining", folder, cfg, command)

    def _add_proposals(self, variant: str) -> str:
        """Of the first seed's ViLD-text, where the configs of the distilled variants read them."""
        name, folder = "vild_text proposals", self.folder / "vild_text" / "proposals"
        if any(task.name == name for task in self.tasks):
            return name
        teacher = Run("vild_text", FIRST_SEED)
        weights = self.folder / teacher.folder
        cfg, overrides = self.config("vild_text", weights, FIRST_SEED)
        output = self.config(variant, folder, FIRST_SEED)[0].clip.proposals
        command = ["scripts/precompute.py", "proposals", "--config-file", _relative("vild_text")]
        command += ["--weights", weights / "model_final.pth", "--output", output]
        command += ["--max-proposals", 32, "--num-workers", 0, "--opts", *overrides]
        return self._add(name, folder, cfg, command, needs=[self._add_run(teacher)])

    def _add_run(self, run: Run) -> str:
        """After what it needs."""
        if run in self.runs:
            return run.name
        own = []
        if run.steps:
            own += [f"train.max_iter={run.steps}"]
            own += [f"lr_multiplier.warmup_length={WARMUP_STEPS / run.steps}"]
        fields: dict = {}
        if run.training == run:
            fields["needs"] = [self._add_preparation(run.variant)]
            fields["group"] = f"{run.variant} {run.steps}"
        else:
            fields["needs"] = [self._add_run(run.training)]
            own += [f"train.init_checkpoint={self.folder / run.training.folder}/model_final.pth"]
        folder = self.folder / run.folder
        cfg, overrides = self.config(run.variant, folder, run.seed, *own)
        mode = "--resume" if run.training == run else "--eval-only"
        self._add(run.name, folder, cfg, train_net(run.variant, mode, overrides), **fields)
        self.runs[run] = self.tasks[-1]
        return run.name


def _relative(variant: str) -> Path:
    """Of a config, as commands name it: they run in the repository's folder, wherever that is."""
    return config_file(variant).relative_to(ROOT)


def train_net(variant: str, mode: str, overrides: Sequence[str]) -> list:
    program = PROJECT.relative_to(ROOT) / "train_net.py"
    return [program, "--config-file", _relative(variant), mode, *overrides]


def embeddings_below(folder: Path, cfg: DictConfig) -> list[str]:
    """Overrides that put into ``folder`` what a config has computed from CLIP, under its name."""
    paths = OmegaConf.to_container(cfg.clip, resolve=False)
    return [
        f"clip.{key}={folder / Path(paths[key]).name}"
        for key in _EMBEDDINGS
        if paths.get(key) is not None
    ]


def check_text_embeddings(cfg: DictConfig) -> None:
    """Raises ChangedError if the config's file exists and another CLIP model made it."""
    path = Path(cfg.model.classifier.text_embeddings)
    if not path.is_file():
        return
    embedded = TextEmbeddings.load(path).clip_sha256
    if embedded != sha256_of_file(clip_file(cfg.clip.weights)):
        raise ChangedError(f"{path} was made by another CLIP model than {cfg.clip.weights}")
