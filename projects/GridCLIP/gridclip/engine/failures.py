"""Trainings that can't start or go on, and which settings mend that."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader

SHARED_MEMORY = Path("/dev/shm")


def check_device(cfg: DictConfig, *, training: bool) -> None:
    """Raise ValueError if ``train.device`` is not there, or can't train as ``train.amp`` asks."""
    device, amp = cfg.train.device, cfg.train.amp.enabled
    on_gpu = str(device).startswith("cuda")
    if (on_gpu and not torch.cuda.is_available()) or (training and amp and not on_gpu):
        given, fix = f"train.device={device}", "add train.device=cpu train.amp.enabled=False"
        raise ValueError(f"No CUDA device is available for {given} train.amp.enabled={amp}: {fix}.")


def check_shared_memory(*loaders: DataLoader) -> None:
    """Raise ValueError if the batches that workers hold ready may not fit into shared memory, where
    a container has 64 MB by default: a worker dies of a bus error there, or is waited for without
    end. ``loaders`` are those in use at one time; the first batch of each is loaded."""
    needed = sum(map(bytes_in_flight, loaders)) * comm.get_local_size()
    if needed == 0 or not SHARED_MEMORY.is_dir():
        return
    if needed > (free := shutil.disk_usage(SHARED_MEMORY).free):
        size = -(-needed // 2**30)
        raise ValueError(
            f"The batches that the workers hold ready take up to {needed / 1e6:.0f} MB of shared "
            f"memory, and {SHARED_MEMORY} has {free / 1e6:.0f} MB: start the container with "
            f"--shm-size={size}g or --ipc=host, or lower dataloader.train.num_workers and "
            "dataloader.test.num_workers (0 needs none)."
        )


def bytes_in_flight(loader: DataLoader) -> int:
    """The most that the workers of a loader hold ready for this process, plus the batch that it
    works on, if all pictures are as large as the largest of the first batch."""
    if loader.num_workers == 0 or loader.batch_sampler is None:
        return 0
    first = next(iter(loader.batch_sampler), [])
    largest = max((_bytes_of_tensors(loader.dataset[index]) for index in first), default=0)
    ahead = loader.num_workers * (loader.prefetch_factor or 0)
    return (ahead + 1) * len(first) * largest


def _bytes_of_tensors(value: Any) -> int:
    """What of a mapped record goes through shared memory, without its few boxes."""
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_bytes_of_tensors, value.values())) if isinstance(value, Mapping) else 0


def explain_divergence(trainer: SimpleTrainer, lr: float | None) -> None:
    """Have a step's errors that come of numbers that are not finite say so, as FloatingPointError.
    ``lr`` is the setting ``optimizer.lr``."""
    run_step = trainer.run_step

    def run_and_explain() -> None:
        try:
            run_step()
        except (AssertionError, FloatingPointError) as error:
            what = " ".join(str(error).split())
            if not all(p.isfinite().all() for p in trainer.model.parameters()):
                what = f"parameters are not finite ({what})"
            # The assertions of box losses and of detectron2's Boxes name their reason.
            elif isinstance(error, AssertionError) and not re.search("bad box|NaN", what):
                raise
            raise FloatingPointError(
                f"training diverged at step {trainer.iter}: {what}; lower optimizer.lr (now {lr})"
            ) from error

    trainer.run_step = run_and_explain
