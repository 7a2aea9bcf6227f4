import pytest
import torch
import torch.nn.functional as F

from gridclip.modeling.products import inner_products


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 4, 5), (1, 5), (0, 5), (2, 0, 5), (5,)])
def test_equals_linear(shape):
    features, weight = torch.randn(shape), torch.randn(6, 5)
    expected = F.linear(features, weight)
    with torch.no_grad():
        products = inner_products(features, weight)
    assert products.shape == expected.shape and products.is_contiguous()
    torch.testing.assert_close(products, expected)


def test_takes_vectors_in_any_layout():
    """Of a map with the channels first, and a slice of a larger matrix."""
    maps, weight = torch.randn(2, 8, 3, 4), torch.randn(9, 16)[:, 8:]
    with torch.no_grad():
        products = inner_products(maps.permute(0, 2, 3, 1), weight)
    torch.testing.assert_close(products, torch.einsum("nfhw,kf->nhwk", maps, weight))


def test_gradients_are_linears():
    features, weight = torch.randn(4, 5, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    inner_products(features, weight).square().sum().backward()
    actual = features.grad.clone(), weight.grad.clone()
    features.grad = weight.grad = None
    F.linear(features, weight).square().sum().backward()
    assert torch.equal(actual[0], features.grad) and torch.equal(actual[1], weight.grad)
