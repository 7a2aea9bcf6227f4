"""Names stay right while many threads change the vocabulary and detect."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T

from gridclip.engine.train import build_model, load_weights
from gridclip.predictor import Predictor
from gridclip.text import TextEmbeddings
from test_predictor import folder, make_config, picture  # noqa: F401

VOCABULARIES = {
    "one": ["umbrella"],
    "synonyms": {"helmet": ["hard hat", "safety helmet"], "cat": ["cat", "kitten"]},
    "other order": ["dog", "cat", "umbrella"],
    "order": ["cat", "umbrella", "dog"],
    "unicode": ["café au lait", "jalapeño", "Ünder"],
    "own labels": {"A": "dog", "B": "cat"},
}


@pytest.fixture(scope="module")
def cfg(folder):  # noqa: F811
    cfg = make_config(folder)
    cfg.dataloader.test.mapper.augmentations[0].short_edge_length = 144
    cfg.model.federated_weights = None
    return cfg


@pytest.fixture(scope="module")
def predictor(cfg, folder):  # noqa: F811
    return Predictor(cfg, folder / "detector.pth")


def eager(cfg, weights, vocabulary, picture):  # noqa: F811
    """Detections of the detector as it was trained: nothing folded, one thread, one vocabulary."""
    model = load_weights(cfg, build_model(cfg), str(weights)).eval()
    model.set_vocabulary(vocabulary)
    with torch.no_grad():
        resized = T.AugInput(np.asarray(picture))
        T.AugmentationList(instantiate(cfg.dataloader.test.mapper.augmentations))(resized)
        pixels = torch.from_numpy(resized.image.copy()).permute(2, 0, 1)
        size = {"height": picture.height, "width": picture.width}
        return model([{"image": pixels, **size}])[0]["instances"]


def check(found, expected, names):
    __tracebackhide__ = True
    assert found.vocabulary == names
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    assert found.names == [names[c] for c in found.pred_classes.tolist()]
    # Equal scores may change places.
    for ours, theirs in zip(found.pred_classes, expected.pred_classes, strict=True):
        if ours != theirs:
            near = (expected.scores[:, None] - expected.scores).abs() < 1e-5
            assert near.sum() > len(expected)
            break


@pytest.mark.slow
def test_eight_threads_and_a_thousand_calls(predictor, cfg, folder, picture):  # noqa: F811
    embedded = {name: predictor.queries.embed(v) for name, v in VOCABULARIES.items()}
    many = torch.nn.functional.normalize(torch.randn(21_000, embedded["one"].dim), dim=1)
    embedded["many"] = TextEmbeddings(
        tuple(f"thing {i}" for i in range(21_000)), many, (), "tiny", ""
    )
    weights = folder / "detector.pth"
    expected = {e.names: eager(cfg, weights, e, picture) for e in embedded.values()}
    assert all(len(instances) > 5 for instances in expected.values())
    given = {**VOCABULARIES, "many": embedded["many"]}
    rng = random.Random(0)
    calls = rng.choices(list(VOCABULARIES), k=990) + ["many"] * 10
    rng.shuffle(calls)

    def call(name):
        predictor.set_vocabulary(given[name])
        return predictor(picture)  # by now another thread may have set another vocabulary

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(call, calls))
    assert len({found.vocabulary for found in results}) == len(expected)
    for found in results:
        check(found, expected[found.vocabulary], found.vocabulary)


def test_any_order_and_twice(predictor, cfg, folder, picture):  # noqa: F811
    for name in ("order", "other order", "one", "one", "order"):
        vocabulary = VOCABULARIES[name]
        predictor.set_vocabulary(vocabulary)
        embedded = predictor.queries.embed(vocabulary)
        check(
            predictor(picture),
            eager(cfg, folder / "detector.pth", embedded, picture),
            tuple(vocabulary),
        )
