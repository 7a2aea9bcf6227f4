"""The model: CLIP backbone, dense head, text classifier and the alignments."""

from .assignment import FCOSAssignment, TaskAlignedAssignment
from .clip_resnet import CLIPFPN, CLIPResNet
from .dense_scores import DenseScores
from .gridclip import GridCLIP
from .head import DistributionHead, GridHead
from .image_alignment import BackboneImageAlignment, DenseImageAlignment, GridImageAlignment
from .inference import optimize_for_inference, set_precision
from .text_classifier import ClosedSetClassifier, TextClassifier

__all__ = [
    "BackboneImageAlignment",
    "CLIPFPN",
    "CLIPResNet",
    "ClosedSetClassifier",
    "DenseImageAlignment",
    "DenseScores",
    "DistributionHead",
    "FCOSAssignment",
    "GridCLIP",
    "GridHead",
    "GridImageAlignment",
    "TaskAlignedAssignment",
    "TextClassifier",
    "optimize_for_inference",
    "set_precision",
]
