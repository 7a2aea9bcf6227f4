"""Hooks that detectron2 lacks: weight averaging, and a best checkpoint that survives a resume."""

from detectron2.engine import HookBase
from detectron2.engine.hooks import BestCheckpointer
from torch.optim.swa_utils import AveragedModel


class EMAHook(HookBase):
    """Updates an averaged copy of the model after every step."""

    def __init__(self, averaged: AveragedModel, model):
        self.averaged = averaged
        self.model = model

    def after_step(self):
        self.averaged.update_parameters(self.model)


class ResumableBestCheckpointer(BestCheckpointer):
    """detectron2's hook that remembers the best value over a resume."""

    def state_dict(self) -> dict:
        return {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state_dict: dict) -> None:
        self.best_metric = state_dict["best_metric"]
        self.best_iter = state_dict["best_iter"]
