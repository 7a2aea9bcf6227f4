"""Batch, steps and learning rate from the number of pictures and GPUs, where a config leaves them
open."""

import logging
import math

from detectron2.utils import comm
from omegaconf import DictConfig

from gridclip.data.description import DatasetDescription

# LVIS's own batch and rate, and its 14.4 passes over 100,000 pictures: no data set gets more.
_BATCH, _LR, _MOST_SAMPLES = 16, 2e-4, 1_440_000
_BATCH_PER_PROCESS = 4
_PASSES, _LEAST_SAMPLES = 60, 40_000
_WARMUP_STEPS = 1_000
_EVALUATIONS = 5

logger = logging.getLogger("detectron2.gridclip")


def complete_schedule(cfg: DictConfig, train: DatasetDescription) -> None:
    """Set what is None in a config, by this rule:

    * ``dataloader.train.total_batch_size``: 4 pictures a process (a GPU, or the CPU), 16 in all at
      most, if the processes divide it;
    * ``train.max_iter``: every picture 60 times, but at least 40,000 and at most 1,440,000 pictures
      (the latter are LVIS's 1x);
    * ``optimizer.lr``: 2e-4 for a batch of 16, times the root of the batch's ratio to it, which is
      the usual rule for AdamW;
    * ``lr_multiplier.warmup_length``: 1,000 steps of 16 pictures, at most a tenth of the run;
    * ``train.eval_period`` and ``train.checkpointer.period``: five in a run.

    It is a start and was not tuned on any data set.
    """
    loader, optimizer, schedule = cfg.dataloader.train, cfg.optimizer, cfg.train
    if loader.total_batch_size is None:
        processes = comm.get_world_size()
        batch = processes * max(1, min(_BATCH_PER_PROCESS, _BATCH // processes))
        _set(loader, "total_batch_size", batch, "dataloader.train")
    batch = loader.total_batch_size
    if schedule.max_iter is None:
        samples = min(max(_PASSES * len(train), _LEAST_SAMPLES), _MOST_SAMPLES)
        _set(schedule, "max_iter", math.ceil(samples / batch), "train")
    if optimizer.lr is None:
        _set(optimizer, "lr", float(f"{_LR * math.sqrt(batch / _BATCH):.2g}"), "optimizer")
    if cfg.lr_multiplier.warmup_length is None:
        steps = min(_WARMUP_STEPS * _BATCH / batch, schedule.max_iter / 10)
        _set(cfg.lr_multiplier, "warmup_length", steps / max(1, schedule.max_iter), "lr_multiplier")
    period = math.ceil(schedule.max_iter / _EVALUATIONS)
    if schedule.eval_period is None:
        _set(schedule, "eval_period", period, "train")
    if schedule.checkpointer.period is None:
        _set(schedule.checkpointer, "period", period, "train.checkpointer")


def _set(node: DictConfig, key: str, value: float, path: str) -> None:
    node[key] = value
    logger.info(f"{path}.{key}={value}, from the number of pictures and processes")
