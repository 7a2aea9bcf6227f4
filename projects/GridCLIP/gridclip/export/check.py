"""Whether an exported file finds what the detector finds."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gridclip.modeling import GridCLIP
from gridclip.pictures import coloured_blocks
from gridclip.predictor import Predictor
from gridclip.text import TextEmbeddings
from gridclip_runtime.engines import Engine
from gridclip_runtime.pictures import as_input
from gridclip_runtime.suppression import Candidates, Limits, choose

from .description import Form
from .graph import Words

SIZES = ((97, 131), (160, 96), (65, 203), (231, 77), (129, 255))  # height and width
BATCHES = (1, 3)
NAMES = (1, 80, 1203)
TOLERANCE = 1e-4  # of scores; and of boxes, in parts of the picture's longer side
# Candidates at the edge of a top-k change places when scores differ in the last digit. So may all
# categories of a location that is the last to be scored.
_AT_THE_EDGE = 0.01


class Difference(NamedTuple):
    """Between a file and its detector.

    Attributes:
        largest: between scores, or boxes in parts of the picture's longer side.
        missing: the share of candidates that the other side has not.
        where: the case.
    """

    largest: float
    missing: float
    where: str


def check(engine: Engine, predictor: Predictor, form: Form) -> float:
    """The largest difference to the detector, on noise of 5 sizes in batches of 1 and 3; with words
    as an input for 1, 80 and 1203 names and those in use.

    Raises:
        ValueError: it passes the tolerance; the message says where and what.
    """
    largest = 0.0
    for case in _differences(engine, predictor, form):
        if case.largest > TOLERANCE or case.missing > _AT_THE_EDGE:
            raise ValueError(
                f"The exported graph differs from the detector at {case.where}: by "
                f"{case.largest:.2g} of {TOLERANCE:g} allowed, {case.missing:.1%} of the "
                "candidates have no counterpart. Nothing was written."
            )
        largest = max(largest, case.largest)
    return largest


def _differences(engine: Engine, predictor: Predictor, form: Form) -> Iterator[Difference]:
    for words in _vocabularies(predictor, form):
        # Of its own, as its limits change.
        model = predictor.with_vocabulary(words).model
        assert isinstance(model, GridCLIP)
        # Suppression hides candidates; it is the runtime's, which has tests of its own.
        model.set_limits(nms=1.0, max_detections=1_000_000)
        given = {name: x.numpy() for name, x in Words.of(model).given().items()}
        for height, width in SIZES:
            for batch in BATCHES:
                pixels = coloured_blocks(height, width, count=batch, seed=height * width)
                images = [
                    as_input(x, model.backbone.size_divisibility, _mean(model)) for x in pixels
                ]
                inputs = {"images": np.concatenate(images)}
                outputs = engine.run({**inputs, **given} if form.words_as_input else inputs)
                tensors = [{"image": torch.from_numpy(x).permute(2, 0, 1).float()} for x in pixels]
                compare = _raw if form.raw else _chosen
                where = f"{batch} of {height} x {width} pixels, {len(words)} names"
                yield Difference(*compare(model, tensors, outputs), where)


def _vocabularies(predictor: Predictor, form: Form) -> Iterator[TextEmbeddings]:
    own = predictor.model.classifier.vocabulary
    yield own
    if form.words_as_input:
        for count in NAMES:
            yield TextEmbeddings.random([f"name {i}" for i in range(count)], own.dim)


def _mean(model: GridCLIP) -> list[float]:
    return model.pixel_mean.flatten().tolist()


def _raw(
    model: GridCLIP, images: list[dict], outputs: dict[str, np.ndarray]
) -> tuple[float, float]:
    """The largest difference, and no candidate missing."""
    maps = model.score_maps(images)
    scores, boxes = (
        torch.stack([torch.cat([part(level).flatten(0, 1) for level in x]) for x in maps])
        for part in (lambda level: level.combined, lambda level: level.boxes)
    )
    side = max(images[0]["image"].shape)
    by_boxes = (boxes - torch.from_numpy(outputs["boxes"])).abs().max() / side
    by_scores = (scores - torch.from_numpy(outputs["scores"])).abs().max()
    return float(torch.maximum(by_boxes, by_scores)), 0.0


def _chosen(
    model: GridCLIP, images: list[dict], outputs: dict[str, np.ndarray]
) -> tuple[float, float]:
    """Of the candidates that have a counterpart, and the share of those without."""
    limits = Limits(model.test_score_thresh, 1.0, 1_000_000)
    largest = missing = 0.0
    for i, result in enumerate(model(images)):
        expected = result["instances"]
        size = expected.image_size
        parts = Candidates(*(outputs[name][i] for name in Candidates._fields))
        found = choose(parts, limits, size, size)
        rows = _rows(expected.pred_boxes.tensor, expected.scores, expected.pred_classes, size=size)
        others = _rows(*(torch.from_numpy(x) for x in found), size=size)
        if not len(rows) or not len(others):
            missing = max(missing, float(len(rows) != len(others)))
            continue
        near = torch.cdist(rows, others, p=float("inf"))
        distances = torch.cat([near.amin(dim=0), near.amin(dim=1)])
        apart = distances > TOLERANCE
        missing = max(missing, float(apart.float().mean()))
        largest = max([largest, *distances[~apart].tolist()])
    return largest, missing


def _rows(boxes: Tensor, scores: Tensor, classes: Tensor, *, size: tuple[int, int]) -> Tensor:
    """(K, 6), which differ by at least 1 between categories."""
    return torch.cat([boxes / max(size), scores[:, None], classes[:, None].float()], dim=1)
