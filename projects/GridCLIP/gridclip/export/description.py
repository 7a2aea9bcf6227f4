"""What an exported file says of its detector: names, sizes and preprocessing, as JSON."""

from base64 import b64encode
from typing import Any, NamedTuple

from detectron2.data import transforms as T
from PIL import Image

from gridclip.modeling import GridCLIP
from gridclip.predictor import Predictor
from gridclip.text import TextEmbeddings
from gridclip_runtime.engines import FORMAT

from .graph import Words


class Form(NamedTuple):
    """How a detector is exported.

    Attributes:
        words_as_input: else the vocabulary in use is folded in.
        raw: the scores of all locations, in place of candidates for suppression.
    """

    words_as_input: bool = True
    raw: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("boxes", "scores") if self.raw else ("boxes", "scores", "classes")


def describe(predictor: Predictor, form: Form) -> dict[str, Any]:
    """Raises ValueError if the runtime can't prepare pictures as this detector's config says."""
    model = predictor.model
    assert isinstance(model, GridCLIP)
    own = model.classifier
    base = predictor.base_names
    about = {
        "format": FORMAT,
        "output": "scores" if form.raw else "detections",
        "words": "input" if form.words_as_input else "fixed",
        "inputs": ["images"],
        "resize": _resize(predictor.resize),
        "multiple": model.backbone.size_divisibility,
        "padding": model.pixel_mean.flatten().tolist(),
        "limits": {
            "threshold": model.test_score_thresh,
            "nms": model.test_nms_thresh,
            "max_detections": model.max_detections_per_image,
        },
        "base_names": None if base is None else sorted(base),
    }
    if not form.words_as_input:
        return {**about, "names": list(own.names)}
    given = Words.of(model).given()
    about["inputs"] += given
    about["vocabulary"] = _as_json(own.vocabulary)
    same = own.vocabulary is own.training_vocabulary
    about["training_vocabulary"] = None if same else _as_json(own.training_vocabulary)
    if "is_novel" in given:
        about["weighed_as_base"] = sorted(own.base_names or own.names)
    return about


def _as_json(vocabulary: TextEmbeddings) -> dict[str, Any]:
    return {
        "names": list(vocabulary.names),
        "embeddings": b64encode(vocabulary.embeddings.numpy().astype("<f4").tobytes()).decode(),
        "clip_sha256": vocabulary.clip_sha256,
    }


def _resize(augmentations: T.AugmentationList) -> list[int] | None:
    """The shorter side and the most of the longer one, in pixels; None: pictures stay as they
    are."""
    steps = augmentations.augs
    if not steps:
        return None
    step = steps[0]
    if len(steps) == 1 and isinstance(step, T.ResizeShortestEdge):
        sides = set(step.short_edge_length)
        if len(sides) == 1 and step.interp == Image.Resampling.BILINEAR and 0 not in sides:
            return [*sides, step.max_size]
    raise ValueError(
        "The runtime resizes pictures by one ResizeShortestEdge of one length, bilinear, and "
        f"dataloader.test.mapper.augmentations is {steps}."
    )
