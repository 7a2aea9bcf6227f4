"""Paired differences against closed forms and against scipy's own paired test."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from laptop_world.differences import ABLATIONS, TWO_STAGE, compared_pairs, differences
from laptop_world.differences import paired_difference as pair
from laptop_world.experiment import VARIANTS
from laptop_world.summary import summarise


def test_two_pairs_by_hand():
    """Student's t of one degree of freedom is Cauchy's: its quantile is a tangent."""
    cell = pair([3.0, 5.0], [2.0, 2.0])
    half = math.tan(math.pi * 0.475) * math.sqrt(2) / math.sqrt(2)
    assert cell["mean"] == 2.0 and cell["values"] == [1.0, 3.0] and cell["n"] == 2
    assert cell["interval"] == pytest.approx([2 - half, 2 + half])
    assert cell["excludes_zero"] is False


def test_three_pairs_by_hand():
    """Of two degrees of freedom: t(p) = (2p - 1) sqrt(2 / (4p (1 - p)))."""
    cell = pair([11.0, 12.0, 13.0], [1.0, 1.0, 1.0])
    half = 0.95 * math.sqrt(2 / (4 * 0.975 * 0.025)) / math.sqrt(3)
    assert cell["interval"] == pytest.approx([11 - half, 11 + half])
    assert cell["excludes_zero"] is True
    assert pair([1.0, 1.0, 1.0], [11.0, 12.0, 13.0])["excludes_zero"] is True


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_as_scipys_paired_test(n):
    rng = np.random.default_rng(n)
    ours, theirs = rng.normal(1.0, 1.0, n), rng.normal(0.0, 1.0, n)
    cell = pair(ours.tolist(), theirs.tolist())
    expected = ttest_rel(ours, theirs)
    assert cell["interval"] == pytest.approx(list(expected.confidence_interval(0.95)))
    assert cell["excludes_zero"] == (expected.pvalue < 0.05)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    cells = [pair(rng.normal(3, 1, 5).tolist(), rng.normal(2, 2, 5).tolist()) for _ in range(2000)]
    share = np.mean([low <= 1 <= high for low, high in (cell["interval"] for cell in cells)])
    assert share == pytest.approx(0.95, abs=0.015)


def test_one_pair_has_no_interval():
    assert pair([3.0], [1.0]) == {
        **{"mean": 2.0, "interval": None, "excludes_zero": None, "n": 1},
        "values": [2.0],
    }


def test_equal_runs_do_not_differ():
    cell = pair([1.0, 2.0], [1.0, 2.0])
    assert cell["interval"] == [0.0, 0.0] and cell["excludes_zero"] is False


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0])])
def test_what_makes_no_pairs_is_refused(ours, theirs):
    with pytest.raises(ValueError, match=f"{len(ours)} and {len(theirs)} values"):
        pair(ours, theirs)


def make_summary(**ap):
    return summarise(
        {name: [{"AP": value, "APr": 1.0, "APf": math.nan}] for name, value in ap.items()}
    )


def test_what_is_compared_is_there_and_of_one_length():
    ap = {"gridclip": 9.0, "gridclip_4000": 10.0, "vild": 3.0, "fvlm": 5.0, "vild_dense": 4.0}
    assert compared_pairs(make_summary(**ap)) == [
        *[("gridclip", "vild"), ("gridclip", "vild_dense"), ("gridclip", "fvlm")],
        *[("gridclip_4000", "gridclip"), ("vild_dense", "vild")],
    ]
    assert compared_pairs(make_summary(gridclip_4000=2.0, fvlm=1.0)) == []


def test_every_row_but_the_longer_training_is_compared_with_gridclip():
    rows = {*ABLATIONS, *TWO_STAGE, "gridclip", "gridclip_4000"}
    assert rows == set(VARIANTS)
    pairs = compared_pairs(make_summary(**dict.fromkeys(VARIANTS, 1.0)))
    assert {b for a, b in pairs if a == "gridclip"} == {*ABLATIONS, *TWO_STAGE}
    assert ("grid_image_alignment", "no_image_alignment") in pairs
    assert ("no_dense_scores", "random_init") in pairs
    assert ("no_distribution", "fcos_assignment") in pairs
    assert len(pairs) == len(set(pairs)) == 27


def test_a_metric_without_a_value_is_left_out():
    found = differences(make_summary(gridclip=2.0, vild=1.5), [("gridclip", "vild")])
    assert set(found) == {"gridclip - vild"}
    assert {name: cell["mean"] for name, cell in found["gridclip - vild"].items()} == {
        "AP": 0.5,
        "APr": 0.0,
    }
