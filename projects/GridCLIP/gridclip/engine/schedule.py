"""Batch, steps and learning rate from the number of pictures and GPUs, where a config leaves them
open."""

import json
import logging
import math
from pathlib import Path

from detectron2.config import LazyConfig
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf

from gridclip.data.description import DatasetDescription
from gridclip.files import write_json

# LVIS's own batch, and its 14.4 passes over 100,000 pictures: no data set gets more. The rate is
# twice LVIS's and the warm-up a fifth of it, because most runs are far shorter.
_BATCH, _LR, _MOST_SAMPLES = 16, 2e-4, 1_440_000
_BATCH_PER_PROCESS = 4
_PASSES, _LEAST_SAMPLES = 60, 40_000
_WARMUP_STEPS = 1_000
_EVALUATIONS = 5

_SETTINGS = (
    "dataloader.train.total_batch_size",
    "train.max_iter",
    "optimizer.lr",
    "lr_multiplier.warmup_length",
    "train.eval_period",
    "train.checkpointer.period",
)

logger = logging.getLogger("detectron2.gridclip")


def complete_schedule(cfg: DictConfig, train: DatasetDescription, resume: bool = False) -> None:
    """Set what is None in a config. A run that is resumed takes what it had, from
    ``<output_dir>/schedule.json``, also on another number of GPUs. Otherwise the rule is:

    * ``dataloader.train.total_batch_size``: 4 pictures a process (a GPU, or the CPU); of more than
      4 processes each takes as many as keep it at 16 or below, but at least 1;
    * ``train.max_iter``: every picture 60 times, but at least 40,000 and at most 1,440,000 pictures
      (the latter are LVIS's 1x);
    * ``optimizer.lr``: 2e-4 for a batch of 16, times the root of the batch's ratio to it, which is
      the usual rule for AdamW;
    * ``lr_multiplier.warmup_length``: 1,000 steps of 16 pictures, at most a tenth of the run;
    * ``train.eval_period`` and ``train.checkpointer.period``: five in a run.

    It is a start and was not tuned on any data set.
    """
    open_settings = [name for name in _SETTINGS if OmegaConf.select(cfg, name) is None]
    if not open_settings:
        return
    path = Path(cfg.train.output_dir, "schedule.json")
    if resume and path.is_file():
        values = json.loads(path.read_text(encoding="utf-8"))
    else:
        values = _by_rule(cfg, len(train))
    for name in open_settings:
        OmegaConf.update(cfg, name, values[name])
        logger.info(f"{name}={values[name]}, from the number of pictures and processes")
    if comm.is_main_process():
        write_json(path, {name: OmegaConf.select(cfg, name) for name in _SETTINGS}, indent=1)
        # detectron2 has written the config without these values.
        LazyConfig.save(cfg, str(path.with_name("config.yaml")))


def _by_rule(cfg: DictConfig, pictures: int) -> dict[str, float]:
    """All settings; those that the config sets are as they are, and others follow from them."""
    values = {name: OmegaConf.select(cfg, name) for name in _SETTINGS}

    def rule(name: str, value: float) -> float:
        values[name] = value if values[name] is None else values[name]
        return values[name]

    processes = comm.get_world_size()
    share = max(1, min(_BATCH_PER_PROCESS, _BATCH // processes))
    batch = rule("dataloader.train.total_batch_size", processes * share)
    samples = min(max(_PASSES * pictures, _LEAST_SAMPLES), _MOST_SAMPLES)
    steps = rule("train.max_iter", math.ceil(samples / batch))
    rule("optimizer.lr", float(f"{_LR * math.sqrt(batch / _BATCH):.2g}"))
    warmup = min(_WARMUP_STEPS * _BATCH / batch, steps / 10)
    rule("lr_multiplier.warmup_length", warmup / max(1, steps))
    rule("train.eval_period", math.ceil(steps / _EVALUATIONS))
    rule("train.checkpointer.period", math.ceil(steps / _EVALUATIONS))
    return values
