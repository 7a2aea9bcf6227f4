"""Evaluation on LVIS, and the files and pictures that report it."""

from .lvis_evaluator import OpenVocabularyLVISEvaluator
from .pictures import draw_detections, plot_losses
from .results import read_results, write_results

__all__ = [
    "OpenVocabularyLVISEvaluator",
    "draw_detections",
    "plot_losses",
    "read_results",
    "write_results",
]
