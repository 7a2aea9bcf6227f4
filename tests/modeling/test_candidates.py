from contextlib import nullcontext

import pytest
import torch
from detectron2.layers import batched_nms
from hypothesis import given, settings
from hypothesis import strategies as st

from gridclip.modeling import candidates
from gridclip.modeling.candidates import (
    BestEntries,
    best_detections,
    best_locations,
    best_pairs,
)
from gridclip.modeling.dense_scores import DenseMap
from gridclip.modeling.rounded_products import RoundedProducts
from gridclip.modeling.text_classifier import FoldedClassifier
from pretended_gpu import pretended_gpu


class Bounded(FoldedClassifier):
    """Whose products are bounded, on any processor and of any number of categories."""

    @property
    def rounded(self):
        return RoundedProducts(self.weight)


def of_logits(count):
    """A classifier whose features are the logits, and a number whose square makes them 1 long."""
    weight = torch.eye(count, count + 1)
    length = torch.zeros(1, count + 1)
    length[0, -1] = 1
    return FoldedClassifier(weight, length, torch.tensor(0.0))


def features_of(logits):
    return torch.cat([logits, torch.ones(len(logits), 1)], dim=1)


def dense_map(weights, centers, seed=0):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(3, 4, len(weights), generator=generator).softmax(dim=-1)
    return DenseMap(p, weights, 32, centers)


def locate(logits, quality, num_locations, dense):
    """Of one level."""
    classifier, features = of_logits(logits.shape[1]), features_of(logits)
    return best_locations(classifier, features, quality, dense, [len(logits)], num_locations)


def everything(logits, quality, dense):
    """The score of every pair of location and category."""
    scores = (logits.sigmoid() * quality.sigmoid()).sqrt()
    return scores if dense is None else dense.combine(scores)


@given(st.integers(0, 2**32), st.integers(1, 40), st.booleans())
def test_bound_of_a_location_is_at_least_its_best_pair(seed, classes, novel):
    """So a location that is left out has no pair above the bound of those that are kept."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(50, classes, generator=generator)
    quality, centers = torch.randn(50, 1), 140 * torch.rand(50, 2, generator=generator)
    weights = torch.where(torch.arange(classes) % 2 == 1, 0.4 if novel else 0.1, 0.1)
    dense = dense_map(weights, centers, seed)
    best = (logits.amax(dim=1).sigmoid() * quality.squeeze(1).sigmoid()).sqrt()
    bound = dense.bound(best)
    scores = everything(logits, quality, dense)
    assert (bound >= scores.amax(dim=1) * (1 - 1e-5)).all()
    places = locate(logits, quality, 10, dense)
    left_out = torch.ones(50, dtype=torch.bool)
    left_out[places] = False
    assert scores[left_out].max() <= bound[places].min() * (1 + 1e-5)


def pairs(logits, quality, dense, places, num_pairs, threshold=0.0):
    """The best of the places of one level."""
    classifier, features = of_logits(logits.shape[1]), features_of(logits)[places]
    counts = [len(places)]
    return best_pairs(
        *(classifier, features, quality[places], dense, places, counts, num_pairs, threshold)
    )


@pytest.mark.parametrize("weight", [None, 0.2])
@pytest.mark.parametrize("names", [7, 1000])
def test_best_pairs_of_the_best_locations_are_those_of_a_plain_search(weight, names, monkeypatch):
    """Few objects, as in a picture: all other locations say little. Names in parts, too."""
    monkeypatch.setitem(candidates._NAMES, "cpu", names)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 30, generator=generator) - 6
    logits[::20] += 5
    quality, centers = torch.zeros(400, 1), 128 * torch.rand(400, 2, generator=generator)
    dense = None if weight is None else dense_map(torch.full((30,), weight), centers)
    scores = everything(logits, quality, dense)
    places = locate(logits, quality, 60, dense)
    found, rows, columns = pairs(logits, quality, dense, places, 50)
    expected = scores.flatten().sort(descending=True).values[:50]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(scores[places[rows], columns], found, rtol=1e-6, atol=0)


def test_each_level_has_its_own_best_pairs():
    logits, quality, places = torch.randn(7, 5), torch.randn(7, 1), torch.arange(7)
    classifier, features = of_logits(5), features_of(logits)
    counts = [4, 0, 3]
    scores, rows, columns = best_pairs(classifier, features, quality, None, places, counts, 6, 0.0)
    plain = everything(logits, quality, None)
    for part, level in ((slice(0, 6), plain[:4]), (slice(6, 12), plain[4:])):
        best = level.flatten().topk(6).values
        torch.testing.assert_close(scores[part], best)
        torch.testing.assert_close(plain[rows[part], columns[part]], best)


@pytest.mark.parametrize("kind", [FoldedClassifier, Bounded])
@pytest.mark.parametrize("weight", [None, 0.2])
def test_each_level_has_its_own_best_locations(kind, weight):
    """Those of a small level, all of them, stand between those of large ones."""
    counts = [100, 7, 0, 20, 60]
    features, quality = torch.randn(sum(counts), 16), torch.randn(sum(counts), 1)
    centers = 128 * torch.rand(sum(counts), 2)
    classifier = kind(torch.randn(30, 16), torch.eye(16), torch.tensor(-2.0))

    def dense(rows):
        return None if weight is None else dense_map(torch.full((30,), weight), centers[rows])

    found = best_locations(classifier, features, quality, dense(slice(None)), counts, 12)
    start = 0
    for count, rows in zip(counts, found.split([12, 7, 0, 12, 12]), strict=True):
        level = slice(start, start + count)
        of_level = features[level], quality[level], dense(level), [count], 12
        alone = best_locations(classifier, *of_level) + start
        assert set(rows.tolist()) == set(alone.tolist()) and len(set(rows.tolist())) == len(rows)
        start += count


def test_without_a_dense_map_as_many_locations_as_pairs_hold_the_best_pairs():
    logits, quality = torch.randn(500, 40), torch.randn(500, 1)
    scores = everything(logits, quality, None)
    places = locate(logits, quality, 100, None)
    found = pairs(logits, quality, None, places, 100)[0]
    torch.testing.assert_close(found, scores.flatten().sort(descending=True).values[:100])


def test_a_category_that_only_the_dense_map_sees_is_found():
    """A novel category with next to nothing from the head, and all of CLIP's map."""
    logits = torch.full((1000, 20), -12.0)
    logits[:300, :19] = -3.0  # base categories at hundreds of other locations
    p = torch.full((2, 2, 20), 1e-6)
    p[1, 1, 19] = 1.0
    centers = torch.full((1000, 2), 10.0)
    centers[700] = 110.0
    dense, quality = DenseMap(p, torch.full((20,), 0.5), 64, centers), torch.zeros(1000, 1)
    places = locate(logits, quality, 300, dense)
    assert 700 in places
    found, rows, columns = pairs(logits, quality, dense, places, 100)
    assert (places[rows[0]], columns[0]) == (700, 19)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    names=st.integers(1, 200),
    spread=st.sampled_from([0.0, 0.1, 1.0]),
    weight=st.sampled_from([None, 0.0, 0.15, 0.9, 1.0]),
    alike=st.booleans(),
)
def test_bounded_search_finds_the_locations_of_a_plain_one(seed, names, spread, weight, alike):
    """Also where all names or all locations are nearly the same, and where the map alone counts."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(1, 16, generator=generator)
    matrix = matrix + spread * torch.randn(names, 16, generator=generator)
    features = torch.randn(60, 16, generator=generator)
    if alike:
        features = features[:1] + 1e-3 * features
    length = torch.eye(16)
    parts = (5 * matrix, length, torch.tensor(-2.0))
    quality, centers = torch.randn(60, 1), 140 * torch.rand(60, 2, generator=generator)
    weights = torch.full((names,), weight or 0.0)
    if weight == 0.15:
        weights[::2] = 0.4  # novel
    dense = None if weight is None else dense_map(weights, centers, seed)
    arguments = (features, quality, dense, [len(features)], 10)
    found = best_locations(Bounded(*parts), *arguments)
    plain = best_locations(FoldedClassifier(*parts), *arguments)
    logits = FoldedClassifier(*parts).best(features)
    measure = (logits.sigmoid() * quality.squeeze(1).sigmoid()).sqrt()
    measure = measure if dense is None else dense.bound(measure)
    assert len(set(found.tolist())) == 10
    # Where two are equal to rounding, either is right.
    torch.testing.assert_close(
        measure[found].sort().values, measure[plain].sort().values, rtol=2e-5, atol=0
    )


@settings(max_examples=60)
@given(
    on_gpu=st.booleans(),
    seed=st.integers(0, 2**32),
    rows=st.integers(0, 9),
    parts=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    count=st.integers(1, 40),
    levels=st.sampled_from([3, 1000]),
)
def test_best_entries_are_those_of_a_whole_sort(on_gpu, seed, rows, parts, count, levels):
    """With many equal ones, too."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randint(levels, (rows, sum(parts)), generator=generator) / levels
    with pretended_gpu() if on_gpu else nullcontext():
        device = "cuda" if on_gpu else "cpu"
        best, first = BestEntries(count, torch.device(device)), 0
        for part in matrix.to(device).split(parts, dim=1):
            best.add(part, first)
            first += part.shape[1]
        found, rows, columns = (x.cpu() for x in (best.scores, best.rows, best.columns))
    expected = matrix.flatten().sort(descending=True).values[:count]
    assert torch.equal(found, expected)
    assert torch.equal(matrix[rows, columns], expected)
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == len(expected)


def test_pairs_above_the_threshold_best_first():
    logits, quality = torch.tensor([[0.1, 0.7, 0.2], [0.9, -5.0, 0.3]]), torch.full((2, 1), 50.0)
    best, rows, columns = pairs(logits, quality, None, torch.arange(2), 4, 0.75)
    torch.testing.assert_close(best, torch.tensor([0.9, 0.7, 0.3]).sigmoid().sqrt())
    assert rows.tolist() == [1, 0, 1] and columns.tolist() == [0, 1, 2]
    for few in (2, 0):
        found = pairs(logits, quality, None, torch.arange(few), 4, 0.95)
        assert [len(x) for x in found] == [0, 0, 0]
    assert len(pairs(logits, quality, None, torch.arange(2), 99, -1.0)[0]) == 6


@pytest.mark.parametrize("most", [3, 100, 5000])
def test_best_detections_are_those_of_suppressing_all(most):
    generator = torch.Generator().manual_seed(0)
    corners = 20 * torch.rand(3000, 2, generator=generator)
    boxes = torch.cat([corners, corners + 30], dim=1)
    scores, classes = torch.rand(3000, generator=generator), torch.arange(3000) % 4
    expected = batched_nms(boxes, scores, classes, 0.5)[:most]
    assert torch.equal(best_detections(boxes, scores, classes, 0.5, most), expected)
    assert len(best_detections(boxes[:0], scores[:0], classes[:0], 0.5, most)) == 0
