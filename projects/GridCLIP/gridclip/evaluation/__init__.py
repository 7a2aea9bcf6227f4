"""Evaluation by LVIS's and COCO's metrics, and the files and pictures that report it."""

from .evaluator import OpenVocabularyEvaluator
from .pictures import draw_detections, draw_results
from .results import read_results, write_results

__all__ = [
    "OpenVocabularyEvaluator",
    "draw_detections",
    "draw_results",
    "read_results",
    "write_results",
]
