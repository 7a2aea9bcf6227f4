"""Products in int8 that choose locations: what they are off by, for any words and features."""

import numpy as np
import pytest

from gridclip_runtime.engines import openvino_core

openvino = pytest.importorskip("openvino")
ops = pytest.importorskip("openvino.opset13")

DIM = 16


def choosing_model(length):
    """Of features (N, R, DIM) and words (C, DIM) the largest product, the features' length under a
    matrix, and one of the products that is no choice."""
    features = ops.parameter([-1, -1, DIM], np.float32, "features")
    words = ops.parameter([-1, DIM], np.float32, "words")
    grid = ops.relu(features)
    products = ops.matmul(grid, words, False, True)
    rotated = ops.matmul(grid, ops.constant(length), False, True)
    outputs = [
        ops.reduce_max(products, ops.constant([2]), keep_dims=True),
        ops.reduce_l2(rotated, ops.constant([2]), keep_dims=True),
        ops.matmul(ops.slice(grid, [0], [1], [1], [1]), words, False, True),
    ]
    return openvino.Model([x.output(0) for x in outputs], [features, words])


def compiled(model):
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    request = openvino_core().compile_model(model, "CPU", settings).create_infer_request()

    def run(*inputs):
        request.infer(list(inputs))
        return [np.array(output.data) for output in request.output_tensors]

    return run


@pytest.fixture(scope="module")
def models():
    from gridclip.export.choice import round_choice

    length = np.random.default_rng(0).normal(size=(DIM, DIM)).astype(np.float32)
    exact, rounded = choosing_model(length), choosing_model(length)
    round_choice(rounded)
    return compiled(exact), compiled(rounded), length


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("names", [1, 7])
def test_products_are_off_by_their_rounding(models, batch, names):
    noise = np.random.default_rng(names)
    features = noise.normal(size=(batch, 5, DIM)).astype(np.float32)
    words = noise.normal(size=(names, DIM)).astype(np.float32)
    exact, rounded, length = models
    (best, norm, others), (best8, norm8, others8) = (
        run(features, words) for run in (exact, rounded)
    )
    largest = features.max(axis=2, keepdims=True)

    def allowed(weight):  # half a step of each feature and each weight
        steps = np.abs(weight).max() * (1 / 255 + 1 / 127) / 2
        return 1.1 * DIM * largest * steps

    assert (np.abs(best - best8) <= allowed(words)).all()
    assert (np.abs(norm - norm8) <= allowed(length) * DIM**0.5).all()
    assert not np.array_equal(best, best8)
    np.testing.assert_array_equal(others, others8)


def test_ranges_are_those_of_each_location_and_of_the_words_given(models):
    noise = np.random.default_rng(3)
    features = noise.normal(size=(1, 4, DIM)).astype(np.float32)
    words = noise.normal(size=(6, DIM)).astype(np.float32)
    scale = np.float32([1, 2.0**10, 2.0**-10, 2.0**20])[None, :, None]
    best, norm, _ = models[1](features, words)
    larger, longer, _ = models[1](features * scale, words * np.float32(2.0**8))
    np.testing.assert_allclose(larger, best * scale * 2.0**8, rtol=1e-6)
    np.testing.assert_allclose(longer, norm * scale, rtol=1e-6)


def test_nothing_at_all(models):
    """Features that a ReLU has made 0, and words of zeros."""
    best, norm, _ = models[1](np.full((1, 2, DIM), -1, np.float32), np.zeros((3, DIM), np.float32))
    assert (best == 0).all() and (norm == 0).all()
