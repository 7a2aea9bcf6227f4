"""Training, evaluation and checkpoints."""

from .checkpoint import GridCLIPCheckpointer
from .solver import BackboneLRFactor
from .train import do_eval_only, do_test, do_train

__all__ = ["BackboneLRFactor", "GridCLIPCheckpointer", "do_eval_only", "do_test", "do_train"]
