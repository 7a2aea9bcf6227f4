import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gridclip.modeling import candidates
from gridclip.modeling.candidates import top_candidates


class Logits:
    """A classifier whose features are the logits; counts the locations that it is given."""

    def __init__(self):
        self.seen = []

    def __call__(self, x):
        self.seen.append(len(x))
        return x

    def best(self, x):
        return self(x).amax(dim=1, keepdim=True)


def plain(logits, centerness, score_threshold, num_candidates):
    """Every pair scored, thresholded and sorted."""
    scores = (logits.float().sigmoid() * centerness.float().sigmoid()).sqrt()
    keep = scores > score_threshold
    pairs = keep.nonzero()
    scores, order = scores[keep].sort(descending=True, stable=True)
    return scores[:num_candidates], pairs[order][:num_candidates]


# Few distinct values, so that ties are the rule. Large ones saturate the sigmoid or leave nothing
# of it; neighbours differ by less than half precision or a saturated sigmoid can tell.
FEW_VALUES = [-104.0, -95.0, -44.0, -4.0, -4.0, 0.0, 0.5, 0.5000001, 3.0, 16.7, 20.0, 20.00001]
VALUES = st.sampled_from(FEW_VALUES) | st.floats(-30, 30, width=32)


@settings(max_examples=300)
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_equals_scoring_every_pair(data, dtype):
    """Ties, nothing above the threshold, one category, more categories than candidates, ..."""
    locations, classes = data.draw(st.integers(0, 12)), data.draw(st.integers(1, 7))

    def table(columns):
        size = locations * columns
        values = data.draw(st.lists(VALUES, min_size=size, max_size=size))
        return torch.tensor(values).reshape(locations, columns).to(dtype)

    logits, centerness = table(classes), table(1)
    options = dict(
        score_threshold=data.draw(st.sampled_from([0.0, 1e-20, 0.05, 0.5, 0.99, 1.0])),
        num_candidates=data.draw(st.integers(1, 30)),
    )
    scores, rows, columns = top_candidates(Logits(), logits, centerness, **options)
    expected, pairs = plain(logits, centerness, **options)

    # The sigmoid of one number may differ in the last bit with its place in a tensor.
    last_bit = dict(rtol=3e-7, atol=0)
    torch.testing.assert_close(scores, expected, **last_bit)
    assert len({(r, c) for r, c in zip(rows.tolist(), columns.tolist(), strict=True)}) == len(rows)
    actual, centers = logits[rows, columns].float(), centerness[rows, 0].float()
    actual = (actual.sigmoid() * centers.sigmoid()).sqrt()
    torch.testing.assert_close(actual, scores, **last_bit)
    # Pairs better than the last one kept are the same; among its equals any may be.
    if len(expected):
        better = expected > expected[-1] * (1 + 1e-6)
        certain = {tuple(pair) for pair in pairs[: len(expected)][better].tolist()}
        assert certain <= set(zip(rows.tolist(), columns.tolist(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_logits_over_many_chunks(dtype, monkeypatch):
    monkeypatch.setitem(candidates.CHUNK, "cpu", 64)
    logits, centerness = torch.randn(500, 40).to(dtype), torch.randn(500, 1).to(dtype)
    scores, rows, columns = top_candidates(
        Logits(), logits, centerness, score_threshold=0.3, num_candidates=100
    )
    expected, _ = plain(logits, centerness, 0.3, 100)
    torch.testing.assert_close(scores, expected, rtol=0, atol=0)


def test_one_location_with_more_categories_than_candidates():
    logits = torch.full((10, 50), -20.0)
    logits[3] = torch.arange(50.0) / 50
    _, rows, columns = top_candidates(
        Logits(), logits, torch.zeros(10, 1), score_threshold=0.1, num_candidates=5
    )
    assert rows.tolist() == [3] * 5 and columns.tolist() == [49, 48, 47, 46, 45]


def test_nothing_above_the_threshold():
    found = top_candidates(
        Logits(),
        torch.full((4, 3), -50.0),
        torch.zeros(4, 1),
        score_threshold=0.5,
        num_candidates=5,
    )
    assert [len(x) for x in found] == [0, 0, 0]


def test_whole_matrix_is_never_made():
    classifier = Logits()
    top_candidates(
        classifier,
        torch.randn(10_000, 3),
        torch.zeros(10_000, 1),
        score_threshold=0.0,
        num_candidates=100,
    )
    assert classifier.seen == [384] * 26 + [16, 100]
