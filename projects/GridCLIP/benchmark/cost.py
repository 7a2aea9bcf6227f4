"""What a whole training costs, and which factors the ratio of two trainings comes from."""

from dataclasses import asdict, dataclass
from pathlib import Path

from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig

LVIS_TRAIN_IMAGES = 100_170


@dataclass(frozen=True)
class TrainingCost:
    """The teacher's passes, made once, and a training step for every image that is seen.

    Attributes:
        teacher_seconds: for the whole training set.
        images_seen: training images that the schedule shows, repetitions counted.
        seconds_per_image: seconds of a step by its batch size.
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
    """Split the ratio of two totals into three factors, whose product is "total".

    The slow training is given the fast one's step, then its schedule, then its teacher. A factor is
    what that replacement saves. In another order the factors would differ a little.
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
    """The cost of each schedule, and over which factors it exceeds the first one's.

    Args:
        schedules: by name, the detector whose step is repeated and the config of the schedule.
        training: by detector, what ``measure_training`` returns. Schedules of detectors that are
            not in it are left out.
        passes: by window set or "regions", the "seconds" that the teacher takes for one picture.
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
    """Training steps times batch size, both from a config."""
    cfg = LazyConfig.load(str(config))
    return cfg.train.max_iter * cfg.dataloader.train.total_batch_size


def _teacher_seconds(cfg: DictConfig, passes: dict[str, dict]) -> float:
    if not cfg.dataloader.train.mapper.get("embeddings"):
        return 0.0
    names = ["regions"] if cfg.clip.get("proposals") else cfg.clip.windows.split("+")
    official = cfg.data.train.get("dataset") == "lvis_v1_train"
    images = LVIS_TRAIN_IMAGES if official else len(instantiate(cfg.data.train))
    return images * sum(passes[name]["seconds"] for name in names)
