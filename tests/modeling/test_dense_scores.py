import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from gridclip.modeling import DenseScores
from gridclip.modeling.dense_scores import DenseMap, combine


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 5), st.integers(0, 20))
def test_interpolation_equals_torchs(seed, height, width, count):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(height, width, 3, generator=generator)
    size = 32 * torch.tensor([width, height])
    centers = torch.rand(count, 2, generator=generator) * (size + 64) - 32  # some lie outside
    expected = F.grid_sample(
        maps.permute(2, 0, 1)[None],
        (2 * centers / size - 1)[None, None],
        padding_mode="border",
        align_corners=False,
    )[0, :, 0].T
    dense = DenseMap(maps, torch.zeros(3), 32, centers)
    torch.testing.assert_close(dense.at(), expected)
    rows = torch.arange(0, count, 2)
    torch.testing.assert_close(dense.at(rows, slice(1, 3)), expected[rows, 1:])


def test_probabilities():
    text = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), dim=1)
    embeddings = torch.tensor([[3.0, 0.0], [0.0, 0.5]]).T.reshape(1, 2, 1, 2)
    p = DenseScores(scale=2.0).probabilities(embeddings, text)
    assert p.shape == (1, 1, 2, 3)
    expected = torch.tensor([2.0, 0.0, 2**0.5]).softmax(0)
    torch.testing.assert_close(p[0, 0], torch.stack([expected, expected[[1, 0, 2]]]))


def test_names_that_are_left_out_compete():
    """p of a name is the same, whether the others are asked for or not."""
    text = F.normalize(torch.randn(7, 16), dim=1)
    embeddings, dense = torch.randn(2, 16, 3, 4), DenseScores(scale=15.0)
    everything = dense.probabilities(embeddings, text)
    one = dense.probabilities(embeddings, text[3:4], torch.cat([text[:3], text[4:]]))
    torch.testing.assert_close(one, everything[..., 3:4])
    assert dense.probabilities(embeddings, text[3:4]).eq(1).all()


def test_combination_by_weights_of_base_and_novel_categories():
    dense = DenseScores(scale=2.0, weight=0.25, novel_weight=0.5)
    weights = dense.weights(torch.tensor([False, True]))
    assert weights.tolist() == [0.25, 0.5]
    scores, p = torch.tensor([[0.5, 0.2]]), torch.tensor([[0.9, 0.3]])
    expected = torch.tensor([[0.5**0.75 * 0.9**0.25, (0.2 * 0.3) ** 0.5]])
    torch.testing.assert_close(combine(scores, p, weights), expected)
    alike = DenseScores(scale=2.0, weight=0.3).weights(torch.tensor([False, True]))
    assert alike.tolist() == pytest.approx([0.3, 0.3])
    assert torch.equal(combine(scores, p, 0.0), scores)


def test_half_precision_maps_are_scored_in_single_precision():
    embeddings, text = torch.randn(1, 8, 2, 2).half(), F.normalize(torch.randn(5, 8), dim=1)
    p = DenseScores(scale=100.0).probabilities(embeddings, text)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p.sum(dim=-1), torch.ones(1, 2, 2))
