"""Hooks that make a resumed run equal an uninterrupted one."""

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import BestCheckpointer
from detectron2.utils import comm


class SeedStepHook(HookBase):
    """Makes a step's random draws, such as an RPN's samples, depend on the seed, the iteration and
    the rank alone."""

    def __init__(self, seed: int):
        self.seed = seed

    def before_step(self) -> None:
        entropy = [self.seed, self.trainer.iter, comm.get_rank()]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))


class ResumableBestCheckpointer(BestCheckpointer):
    """detectron2's hook that remembers the best value when a run is resumed."""

    def state_dict(self) -> dict:
        return {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state_dict: dict) -> None:
        self.best_metric = state_dict["best_metric"]
        self.best_iter = state_dict["best_iter"]
