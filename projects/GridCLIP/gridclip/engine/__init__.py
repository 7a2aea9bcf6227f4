"""Training, evaluation and checkpoints."""

from .checkpoint import GridCLIPCheckpointer
from .train import BackboneLRFactor, do_eval_only, do_test, do_train

__all__ = ["BackboneLRFactor", "GridCLIPCheckpointer", "do_eval_only", "do_test", "do_train"]
