import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gridclip.modeling import candidates
from gridclip.modeling.candidates import best_locations, best_pairs
from gridclip.modeling.dense_scores import DenseMap


class Logits:
    """A classifier whose features are the logits; counts the locations that it is given."""

    def __init__(self):
        self.seen = []

    def best(self, x):
        self.seen.append(len(x))
        return x.amax(dim=1, keepdim=True)


def dense_map(classes, weights, seed=0):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(3, 4, classes, generator=generator).softmax(dim=-1)
    return DenseMap(p, weights, stride=32)


def everything(logits, quality, dense, centers):
    """The score of every pair of location and category."""
    scores = (logits.sigmoid() * quality.sigmoid()).sqrt()
    return scores if dense is None else dense.combine(scores, centers)


@given(st.integers(0, 2**32), st.integers(1, 40), st.booleans())
def test_bound_of_a_location_is_at_least_its_best_pair(seed, classes, novel):
    """So a location that is left out has no pair above the bound of those that are kept."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(50, classes, generator=generator)
    quality, centers = torch.randn(50, 1), 140 * torch.rand(50, 2, generator=generator)
    weights = torch.where(torch.arange(classes) % 2 == 1, 0.4 if novel else 0.1, 0.1)
    dense = dense_map(classes, weights, seed)
    best = (logits.amax(dim=1).sigmoid() * quality.squeeze(1).sigmoid()).sqrt()
    bound = dense.bound(best, centers)
    scores = everything(logits, quality, dense, centers)
    assert (bound >= scores.amax(dim=1) * (1 - 1e-5)).all()
    places = best_locations(Logits(), logits, quality, 10, dense, centers)
    left_out = torch.ones(50, dtype=torch.bool)
    left_out[places] = False
    assert scores[left_out].max() <= bound[places].min() * (1 + 1e-5)


@pytest.mark.parametrize("dense", [None, dense_map(30, torch.full((30,), 0.2))])
def test_best_pairs_of_the_best_locations_are_those_of_a_plain_search(dense):
    """Few objects, as in a picture: all other locations say little."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 30, generator=generator) - 6
    logits[::20] += 5
    quality, centers = torch.zeros(400, 1), 128 * torch.rand(400, 2, generator=generator)
    scores = everything(logits, quality, dense, centers)
    places = best_locations(Logits(), logits, quality, 60, dense, centers)
    found, rows, columns = best_pairs(scores[places], 50, 0.0)
    expected = scores.flatten().sort(descending=True).values[:50]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(scores[places[rows], columns], found, rtol=0, atol=0)


def test_without_a_dense_map_as_many_locations_as_pairs_hold_the_best_pairs():
    logits, quality = torch.randn(500, 40), torch.randn(500, 1)
    scores = everything(logits, quality, None, None)
    places = best_locations(Logits(), logits, quality, 100, None, torch.zeros(500, 2))
    found = best_pairs(scores[places], 100, 0.0)[0]
    assert torch.equal(found, scores.flatten().sort(descending=True).values[:100])


def test_a_category_that_only_the_dense_map_sees_is_found():
    """A novel category with next to nothing from the head, and all of CLIP's map."""
    logits = torch.full((1000, 20), -12.0)
    logits[:300, :19] = -3.0  # base categories at hundreds of other locations
    p = torch.full((2, 2, 20), 1e-6)
    p[1, 1, 19] = 1.0
    dense = DenseMap(p, torch.full((20,), 0.5), stride=64)
    centers = torch.full((1000, 2), 10.0)
    centers[700] = 110.0
    places = best_locations(Logits(), logits, torch.zeros(1000, 1), 300, dense, centers)
    assert 700 in places
    scores = everything(logits[places], torch.zeros(300, 1), dense, centers[places])
    found, rows, columns = best_pairs(scores, 100, 0.0)
    assert (places[rows[0]], columns[0]) == (700, 19)


def test_pairs_above_the_threshold_best_first():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.9, 0.0, 0.3]])
    best, rows, columns = best_pairs(scores, 4, 0.2)
    assert best.tolist() == pytest.approx([0.9, 0.7, 0.3])
    assert rows.tolist() == [1, 0, 1] and columns.tolist() == [0, 1, 2]
    assert [len(x) for x in best_pairs(scores, 4, 0.95)] == [0, 0, 0]
    assert [len(x) for x in best_pairs(scores[:0], 4, 0.0)] == [0, 0, 0]
    assert len(best_pairs(scores, 99, -1.0)[0]) == 6


def test_whole_matrix_is_never_made(monkeypatch):
    monkeypatch.setitem(candidates.CHUNK, "cpu", 384)
    classifier = Logits()
    places = best_locations(
        classifier, torch.randn(10_000, 3), torch.zeros(10_000, 1), 100, None, torch.zeros(1, 2)
    )
    assert classifier.seen == [384] * 26 + [16] and len(places) == 100
