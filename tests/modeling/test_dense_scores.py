import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from gridclip.modeling import DenseScores
from gridclip.modeling.dense_scores import sample_bilinear


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 5), st.integers(0, 20))
def test_sampling_equals_torchs(seed, height, width, count):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(height, width, 3, generator=generator)
    size = torch.tensor([width, height])
    positions = torch.rand(count, 2, generator=generator) * (size + 2) - 1  # some lie outside
    channels = torch.randint(0, 3, (count,), generator=generator)
    grid = (2 * positions / size - 1)[None, None]
    expected = F.grid_sample(
        maps.permute(2, 0, 1)[None], grid, padding_mode="border", align_corners=False
    )[0, :, 0]
    expected = expected[channels, torch.arange(count)]
    torch.testing.assert_close(sample_bilinear(maps, positions, channels), expected)


def test_probabilities_and_scores():
    text = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), dim=1)
    embeddings = torch.tensor([[3.0, 0.0], [0.0, 0.5]]).T.reshape(1, 2, 1, 2)
    dense = DenseScores(scale=2.0, weight=0.25)
    p = dense.probabilities(embeddings, text)
    assert p.shape == (1, 1, 2, 3)
    expected = torch.tensor([2.0, 0.0, 2**0.5]).softmax(0)
    torch.testing.assert_close(p[0, 0], torch.stack([expected, expected[[1, 0, 2]]]))

    positions = torch.tensor([[0.5, 0.5], [1.0, 0.5]])
    scores = dense.rescore(torch.tensor([0.5, 0.2]), torch.tensor([0, 2]), positions, p[0])
    between = (p[0, 0, 0, 2] + p[0, 0, 1, 2]) / 2
    torch.testing.assert_close(
        scores, torch.stack([0.5**0.75 * expected[0] ** 0.25, 0.2**0.75 * between**0.25])
    )


def test_half_precision_maps_are_scored_in_single_precision():
    embeddings, text = torch.randn(1, 8, 2, 2).half(), F.normalize(torch.randn(5, 8), dim=1)
    p = DenseScores(scale=100.0).probabilities(embeddings, text)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p.sum(dim=-1), torch.ones(1, 2, 2))
