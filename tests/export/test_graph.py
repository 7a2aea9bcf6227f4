"""The graph, run by PyTorch as it is, finds what the detector finds."""

import numpy as np
import pytest
import torch

from exported import make_detector
from gridclip.export.check import check
from gridclip.export.description import Form
from gridclip.export.graph import DetectorGraph, Words

FORMS = [Form(words, raw) for words in (True, False) for raw in (True, False)]


class Eager:
    """The graph as an engine."""

    def __init__(self, predictor, form):
        self.outputs = form.outputs
        self.graph = DetectorGraph(
            predictor.model, words_as_input=form.words_as_input, raw=form.raw
        )

    def run(self, inputs):
        images, *words = map(torch.from_numpy, inputs.values())
        with torch.no_grad():
            given = dict(zip(list(inputs)[1:], words, strict=True))
            found = self.graph(images, **given)
        return {name: x.numpy() for name, x in zip(self.outputs, found, strict=True)}


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.classifier.novel_classes=[2]", "model.dense_scores.novel_weight=0.6"),
        ("model.dense_scores=null",),
        ("model.test_score_thresh=0.1", "model.test_topk_locations=10000"),
    ],
    ids=str,
)
def test_candidates_are_the_detectors(overrides, form, tmp_path, world, tiny_clip):
    predictor = make_detector(tmp_path, world, tiny_clip, *overrides)
    largest = check(Eager(predictor, form), predictor, form)
    assert largest < 1e-5


def empty(outputs):
    return {name: x[:, :0] for name, x in outputs.items()}


def test_a_detector_that_finds_nothing(tmp_path, world, tiny_clip):
    predictor = make_detector(tmp_path, world, tiny_clip, "model.test_score_thresh=1.0")
    assert check(Eager(predictor, Form()), predictor, Form()) == 0


def test_other_words_are_folded_in(small_detector):
    form = Form(words_as_input=False)
    predictor = small_detector.with_vocabulary(["red thing"])
    assert len(Words.of(predictor.model).competitors) == 2
    check(Eager(predictor, form), predictor, form)
    with pytest.raises(ValueError, match="differs from the detector at 1 of 97 x 131 pixels"):
        check(Eager(small_detector, form), predictor, form)


class Changed(Eager):
    """Whose outputs are changed by ``change``."""

    def run(self, inputs):
        return self.change(super().run(inputs))


def shifted(outputs):
    return {**outputs, "boxes": outputs["boxes"] + 0.1}


def scaled(outputs):
    return {**outputs, "scores": outputs["scores"] * np.float32(1.01)}


def shortened(outputs):
    return {name: x[:, :-20] for name, x in outputs.items()}


def renamed(outputs):
    return {**outputs, "classes": outputs["classes"] + 1}


@pytest.mark.parametrize("change", [shifted, scaled, shortened, renamed, empty])
def test_a_difference_is_noticed(change, small_detector):
    engine = Changed(small_detector, Form())
    engine.change = change
    with pytest.raises(ValueError, match="Nothing was written"):
        check(engine, small_detector, Form())


@pytest.mark.parametrize("change", [shifted, scaled])
def test_a_difference_of_raw_scores_is_noticed(change, small_detector):
    form = Form(words_as_input=False, raw=True)
    engine = Changed(small_detector, form)
    engine.change = change
    with pytest.raises(ValueError, match="differs from the detector"):
        check(engine, small_detector, form)
