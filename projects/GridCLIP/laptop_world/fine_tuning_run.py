"""One fine-tuning of a laptop detector, evaluated at several alphas."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.utils.env import seed_all_rng
from omegaconf import DictConfig

from gridclip.clip_weights import clip_file
from gridclip.engine import do_eval_only, do_train
from gridclip.engine.interpolation import interpolate_weights
from gridclip.evaluation.results import git_commit, jsonable_config, processor_name, versions
from gridclip.files import sha256_of_file, write_json
from gridclip.settings import load_config
from laptop_world.command import locked
from laptop_world.experiment import config_file
from laptop_world.fine_tuning_data import write_pictures
from laptop_world.record import TaskRecord

GROUPS = ("new", "old", "unseen", "other")
ALPHAS = (0.25, 0.5, 1.0)

_NOT_ALIGNED = ("clip.image_embeddings=null", "model.image_alignment=null")
# By recipe: what the annotation says of old names, and overrides.
RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "plain": ("unknown", _NOT_ALIGNED),
    "aligned": ("unknown", ()),
    "absent": ("absent", ()),
}


@dataclass(frozen=True)
class Run:
    """A fine-tuning; with recipe "before" the evaluation of the detector that it starts from.

    Attributes:
        pictures: to fine-tune on; the seed chooses which.
        detector: its weights before.
        folder: of all that the run writes.
        overrides: of configs/laptop/fine_tune.py.
    """

    recipe: str
    pictures: int
    seed: int
    world: str
    detector: str
    folder: str
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.recipe}, {self.pictures} pictures, seed {self.seed}"

    @property
    def outcome(self) -> Path:
        return Path(self.folder, "outcome.json")

    def config(self) -> DictConfig:
        kind, own = RECIPES.get(self.recipe, ("unknown", ()))
        folder = Path(self.folder)
        settings = {
            "shapes.world": self.world,
            "train.init_checkpoint": self.detector,
            "train.seed": self.seed,
            "train.output_dir": folder,
            "data.train.json": folder / f"pictures/{kind}.json",
            "data.train.images": folder / "pictures",
        }
        given = [f"{key}={value}" for key, value in settings.items()]
        return load_config(config_file("fine_tune"), [*given, *own, *self.overrides])

    def open_record(self) -> TaskRecord:
        """Raises ChangedError if what is there was made with other settings or another detector."""
        detector = sha256_of_file(clip_file(self.detector))
        identity = {"config": jsonable_config(self.config()), "detector_sha256": detector}
        return TaskRecord(Path(self.folder, "record.json"), identity)


def do_run(run: Run) -> None:
    """Write ``run.outcome``: by alpha, the AP in percent of each of GROUPS. What it prints is in
    ``log.txt``."""
    torch.set_num_threads(1)
    record, folder = run.open_record(), Path(run.folder)
    with locked(folder / "lock"), open(folder / "log.txt", "a") as log:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log), record.working():
            seed_all_rng(run.seed)
            found = _before(run) if run.recipe == "before" else _fine_tune(run)
            made = {"commit": git_commit(), "versions": versions()}
            made["processor"] = processor_name(run.config().train.device)
            write_json(run.outcome, {"ap": found, "made": made}, indent=1)


def _before(run: Run) -> dict[str, dict[str, float]]:
    return {"0": _by_group(do_eval_only(run.config()))}


def _fine_tune(run: Run) -> dict[str, dict[str, float]]:
    cfg, folder, by_alpha = run.config(), Path(run.folder), {}
    write_pictures(run.world, run.seed, run.pictures, folder / "pictures")
    do_train(cfg)
    after, mixed = folder / "model_final.pth", folder / "mixed.pth"
    for alpha in ALPHAS:
        interpolate_weights(Path(run.detector), after, alpha, mixed)
        own = [f"train.init_checkpoint={mixed}", f"train.output_dir={folder / 'alpha'}"]
        (folder / "alpha").mkdir(exist_ok=True)
        by_alpha[f"{alpha:g}"] = _by_group(do_eval_only(load_config(cfg, own)))
    for weights in folder.glob("*.pth"):
        weights.unlink()
    return by_alpha


def _by_group(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: results["bbox"][f"APr_{name}"] for name in GROUPS}
