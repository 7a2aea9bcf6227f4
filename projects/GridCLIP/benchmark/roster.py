"""Who is compared: the default detectors and schedules, or the configs that a user names."""

from pathlib import Path
from typing import NamedTuple

from .contestants import Contestant, fcos_like, from_config, lvis_faster_rcnn, torchvision_fcos

CONFIGS = Path(__file__).resolve().parents[1] / "configs/lvis"
ONE_X = CONFIGS / "gridclip_r50_ov_1x.py"
LIGHT = CONFIGS / "gridclip_r50_ov_light_1x.py"
VILD = CONFIGS / "vild_r50_ov.py"

CONTESTANTS = [
    Contestant("gridclip", "GridCLIP R50", from_config, ONE_X),
    Contestant("gridclip_light", "GridCLIP R50, light towers", from_config, LIGHT),
    Contestant("vild", "ViLD R50", from_config, VILD),
    Contestant("vild_ensemble", "ViLD-ensemble R50", from_config, CONFIGS / "vild_ens_r50_ov.py"),
    Contestant("fcos", "FCOS, same backbone and towers", fcos_like, ONE_X),
    Contestant("faster_rcnn", "LVIS Faster R-CNN R50", lvis_faster_rcnn),
    Contestant("torchvision_fcos", "torchvision FCOS R50, 91 classes", torchvision_fcos),
]

# By name of the schedule: the detector whose step it repeats, and the config that says how often.
# All are compared with the first.
SCHEDULES = {
    "gridclip_1x": ("gridclip", ONE_X),
    "gridclip_2x": ("gridclip", CONFIGS / "gridclip_r50_ov_2x.py"),
    "vild_official": ("vild", VILD),
    "vild_20_epochs": ("vild", CONFIGS / "vild_r50_ov_20ep.py"),
}

# What a quick comparison leaves out: of everything, of training, and of the memory of training.
QUICK_OMITS = {"gridclip_light", "torchvision_fcos"}
QUICK_OMITS_TRAINING = {"vild_ensemble"}
QUICK_OMITS_MEMORY = {"vild_ensemble", "vild"}


class Roster(NamedTuple):
    """Who takes part in what.

    Attributes:
        contestants: in inference; the first is what the others are compared with.
        to_train, in_memory: those of ``contestants`` whose training steps are timed, and whose
            memory in training is measured.
        schedules: the trainings whose total cost is computed, in the form of ``SCHEDULES``.
    """

    contestants: list[Contestant]
    to_train: list[Contestant]
    in_memory: list[Contestant]
    schedules: dict[str, tuple[str, Path]]


def default_roster(dtype: str, quick: bool) -> Roster:
    contestants = without(CONTESTANTS, QUICK_OMITS) if quick else CONTESTANTS
    to_train = in_memory = trainable(contestants, dtype)
    if quick:
        to_train = without(to_train, QUICK_OMITS_TRAINING)
        in_memory = without(in_memory, QUICK_OMITS_MEMORY)
    return Roster(contestants, to_train, in_memory, SCHEDULES)


def roster_of(configs: list[Path], weights: list[str] | None, dtype: str) -> Roster:
    """One detector for each config, named after its file.

    Args:
        weights: a checkpoint for each config; None: random weights.
    """
    contestants = [
        Contestant(config.stem, config.stem, from_config, config, checkpoint)
        for config, checkpoint in zip(configs, weights or [None] * len(configs), strict=True)
    ]
    chosen = trainable(contestants, dtype)
    schedules = {config.stem: (config.stem, config) for config in configs}
    return Roster(contestants, chosen, chosen, schedules)


def trainable(contestants: list[Contestant], dtype: str) -> list[Contestant]:
    """Those that have a config to train by, in a precision that they can train in."""
    return [
        c
        for c in contestants
        # detectron2's FCOS trains in float32 only.
        if c.config is not None and (dtype == "float32" or c.factory is not fcos_like)
    ]


def without(contestants: list[Contestant], keys: set[str]) -> list[Contestant]:
    return [c for c in contestants if c.key not in keys]
