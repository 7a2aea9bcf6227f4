"""What a whole training costs, and which part of a ratio comes from where."""

from dataclasses import asdict, dataclass
from pathlib import Path

from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog
from omegaconf import DictConfig

LVIS_TRAIN_IMAGES = 100_170


@dataclass(frozen=True)
class TrainingCost:
    """Seconds of a training: the teacher's passes once, then a step for every image.

    Attributes:
        teacher_seconds: over the whole training set.
        images_seen: by the schedule.
        seconds_per_image: of a step.
    """

    teacher_seconds: float
    images_seen: int
    seconds_per_image: float

    @property
    def total(self) -> float:
        return self.teacher_seconds + self.images_seen * self.seconds_per_image

    def as_record(self) -> dict:
        return {**asdict(self), "seconds": self.total, "hours": self.total / 3600}


def decompose(slow: TrainingCost, fast: TrainingCost) -> dict[str, float]:
    """The ratio of two totals as a product of three.

    ``slow`` is given the step, the schedule and the teacher of ``fast``, one after the other; each
    factor is what that saves. (In another order the factors differ a little, not the product.)
    """
    step = TrainingCost(slow.teacher_seconds, slow.images_seen, fast.seconds_per_image)
    schedule = TrainingCost(slow.teacher_seconds, fast.images_seen, fast.seconds_per_image)
    return {
        "total": slow.total / fast.total,
        "cheaper_step": slow.total / step.total,
        "shorter_schedule": step.total / schedule.total,
        "cheaper_teacher": schedule.total / fast.total,
    }


def training_costs(
    schedules: dict[str, tuple[str, Path]], training: dict[str, dict], passes: dict[str, dict]
) -> dict[str, dict]:
    """The costs of schedules, each but the first with its ratio to the first, decomposed.

    Args:
        schedules: by name, whose step they repeat and the config that says how often.
        training: by detector, what ``measure_training`` returns; other schedules are left out.
        passes: by window set or "regions", the "seconds" of the teacher's pass over a picture.
    """
    costs = {
        name: TrainingCost(
            teacher_seconds=_teacher_seconds(LazyConfig.load(str(config)), passes),
            images_seen=images_seen(config),
            seconds_per_image=training[key]["step"],
        )
        for name, (key, config) in schedules.items()
        if key in training
    }
    first = next(iter(costs), None)
    return {
        name: cost.as_record()
        | ({} if name == first else {"over_first": decompose(cost, costs[first])})
        for name, cost in costs.items()
    }


def images_seen(config: Path) -> int:
    """Steps times batch of a config's schedule."""
    cfg = LazyConfig.load(str(config))
    return cfg.train.max_iter * cfg.dataloader.train.total_batch_size


def _teacher_seconds(cfg: DictConfig, passes: dict[str, dict]) -> float:
    if not cfg.dataloader.train.mapper.get("embeddings"):
        return 0.0
    names = ["regions"] if cfg.clip.get("proposals") else cfg.clip.windows.split("+")
    dataset = cfg.clip.image_dataset
    images = LVIS_TRAIN_IMAGES if dataset == "lvis_v1_train" else len(DatasetCatalog.get(dataset))
    return images * sum(passes[name]["seconds"] for name in names)
