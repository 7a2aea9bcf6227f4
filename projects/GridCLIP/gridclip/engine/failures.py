"""Trainings that can't start or go on, and which settings mend that."""

import re

import torch
from detectron2.engine import SimpleTrainer
from omegaconf import DictConfig


def check_device(cfg: DictConfig, *, training: bool) -> None:
    """Raise ValueError if ``train.device`` is not there, or can't train as ``train.amp`` asks."""
    device, amp = cfg.train.device, cfg.train.amp.enabled
    on_gpu = str(device).startswith("cuda")
    if (on_gpu and not torch.cuda.is_available()) or (training and amp and not on_gpu):
        given, fix = f"train.device={device}", "add train.device=cpu train.amp.enabled=False"
        raise ValueError(f"No CUDA device is available for {given} train.amp.enabled={amp}: {fix}.")


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
