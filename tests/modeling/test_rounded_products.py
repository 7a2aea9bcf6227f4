import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gridclip.modeling import rounded_products
from gridclip.modeling.rounded_products import BLOCK, RoundedProducts


def members(block, count):
    """The weights of a block; the last one fills blocks up."""
    blocks = -(-count // BLOCK)
    return [min(i, count - 1) for i in range(block, BLOCK * blocks, blocks)]


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 70),
    width=st.integers(2, 40),
    shift=st.sampled_from([0.0, 1.0, 100.0]),
    exponents=st.tuples(st.integers(-6, 6), st.integers(-6, 6)),
    outlier=st.booleans(),
)
def test_bounds_hold(seed, count, width, shift, exponents, outlier):
    """Of alike weights, of numbers of any size, and of rows that one number dominates."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(count, width, generator=generator) + shift
    features = torch.randn(9, width, generator=generator)
    features[0] = 0
    if outlier:
        features[1, 0] = weight[0, 0] = 1e4
    weight, features = 10.0 ** exponents[0] * weight, 10.0 ** exponents[1] * features
    rounded = RoundedProducts(weight)
    bounds, exact = rounded.bounds(features), features.double() @ weight.double().T
    assert bounds.shape == (9, -(-count // BLOCK))
    for block in range(bounds.shape[1]):
        best = exact[:, members(block, count)].amax(dim=1)
        assert (bounds[:, block] >= best).all()
        found = rounded.largest(features, torch.full((9,), block))
        length = features.norm(dim=1) * weight.norm(dim=1).max()
        assert ((found - best).abs() <= 1e-5 * length).all()


def test_bounds_are_narrow(monkeypatch):
    """In parts of rows and of weights, too."""
    monkeypatch.setattr(rounded_products, "_CHUNK", 2 * BLOCK)
    monkeypatch.setattr(rounded_products, "_ROWS", 7)
    monkeypatch.setattr(rounded_products, "_LOOKUPS", 5)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(100, 64, generator=generator) + 3
    features = torch.randn(20, 64, generator=generator)
    rounded = RoundedProducts(weight)
    bounds, exact = rounded.bounds(features), features @ weight.T
    for block in range(7):
        slack = bounds[:, block] - exact[:, members(block, 100)].amax(dim=1)
        assert (slack >= 0).all() and slack.max() < 0.04 * 64
        best = exact[:, members(block, 100)].amax(dim=1)
        found = rounded.largest(features, torch.full((20,), block))
        torch.testing.assert_close(found, best, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("count", "grad", "vnni", "pays"), [
    (8192, False, True, True),
    (8191, False, True, False),
    (8192, True, True, False),
    (8192, False, False, False),
])  # fmt: skip
def test_pays_with_many_weights_where_processors_can(monkeypatch, count, grad, vnni, pays):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    with torch.set_grad_enabled(grad):
        assert RoundedProducts.pays(torch.zeros(count, 2)) is pays
