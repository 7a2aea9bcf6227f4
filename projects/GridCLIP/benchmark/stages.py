"""Time of a detector's stages, whose methods are wrapped while it is measured."""

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple
from unittest.mock import patch

import torch
from detectron2.modeling.meta_arch import FCOS, GeneralizedRCNN
from torch import nn

from gridclip.modeling import GridCLIP, gridclip
from gridclip.vild import ViLD

from .contestants import TorchvisionDetector

STAGES = (
    "preprocess",  # normalisation, padding, batching; reading and resizing are done before
    "backbone",
    "neck",
    "proposals",
    "head",  # in two-stage detectors the RoI pooling and the box head
    "classifier",
    "post-processing",
    "other",  # the rest, such as anchors
)


class StageClock:
    """Adds up the seconds of named stages. A stage's time excludes the stages within it.

    Attributes:
        seconds: by stage.
    """

    def __init__(self, device: str):
        self.on_cuda = torch.device(device).type == "cuda"
        self.seconds: Counter[str] = Counter()
        self._open: list[str] = []
        self._since = 0.0

    @property
    def current(self) -> str | None:
        """The innermost stage that runs now."""
        return self._open[-1] if self._open else None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what runs within as ``name``."""
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def timed(self, name: str, function: Callable) -> Callable:
        """``function``, with its calls counted as stage ``name``."""

        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            with self.stage(name):
                return function(*args, **kwargs)

        return wrapped

    def _book(self) -> None:
        """Add the time since the last call to the innermost stage."""
        if self.on_cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


class StageFunction(NamedTuple):
    """A stage is the call of an attribute of an object, its owner."""

    stage: str
    owner: object
    attribute: str


def stage_functions(model: nn.Module) -> list[StageFunction]:
    """The calls to time in a detector. One call may lie within another.

    Raises:
        ValueError: the architecture is unknown here.
    """
    if isinstance(model, TorchvisionDetector):
        detector = model.detector
        return [
            StageFunction("preprocess", detector.transform, "forward"),
            StageFunction("neck", detector.backbone, "forward"),
            StageFunction("backbone", detector.backbone.body, "forward"),
            StageFunction("head", detector.head, "forward"),
            StageFunction("classifier", detector.head.classification_head.cls_logits, "forward"),
            StageFunction("post-processing", detector, "postprocess_detections"),
        ]
    if not isinstance(model, FCOS | GeneralizedRCNN):
        raise ValueError(f"The stages of a {type(model).__name__} are not known.")
    common = [
        StageFunction("preprocess", model, "preprocess_image"),
        StageFunction("neck", model.backbone, "forward"),
        StageFunction("backbone", model.backbone.bottom_up, "forward"),
    ]
    if isinstance(model, FCOS):
        common += [
            StageFunction("head", model.head, "forward"),
            StageFunction("post-processing", model, "forward_inference"),
        ]
        if isinstance(model, GridCLIP):
            return [
                *common,
                StageFunction("classifier", model, "_dense_probabilities"),
                StageFunction("classifier", model.classifier, "fold"),
                StageFunction("classifier", gridclip, "best_locations"),
                StageFunction("classifier", gridclip, "best_pairs"),
            ]
        return [*common, StageFunction("classifier", model.head.cls_score, "forward")]
    predictor = model.roi_heads.box_predictor
    common += [
        StageFunction("proposals", model.proposal_generator, "forward"),
        StageFunction("head", model.roi_heads, "forward"),
        StageFunction("classifier", predictor, "forward"),
        StageFunction("post-processing", predictor, "inference"),
    ]
    if isinstance(model, ViLD):
        common.append(StageFunction("classifier", model, "_rescoring"))
    if isinstance(model, ViLD) and model.roi_heads.image_head is not None:
        common += [
            StageFunction("classifier", model.roi_heads.image_projection, "forward"),
            StageFunction("classifier", model.classifier, "forward"),
        ]
    return common


@contextmanager
def timed_stages(model: nn.Module, clock: StageClock) -> Iterator[None]:
    """Times the stages of the calls of ``model`` that are made within."""
    with ExitStack() as stack:
        for stage, owner, attribute in stage_functions(model):
            function = clock.timed(stage, getattr(owner, attribute))
            stack.enter_context(patch.object(owner, attribute, function))
        yield
