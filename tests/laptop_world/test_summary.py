import math

import pytest
from PIL import Image

from laptop_world.summary import plot_summary, summarise

RUN = {"AP": 1.0, "AP50": 2.0, "AP75": 0.0, "APr": 3.0, "APc": 4.0, "APf": 5.0, "APr_shape": 6.0}


def test_mean_sample_deviation_count_and_values():
    summary = summarise({"a": [RUN, {**RUN, "AP": 3.0}, {**RUN, "AP": 8.0}], "b": [RUN]})
    assert list(summary) == ["a", "b"]
    assert list(summary["a"]) == ["AP", "AP50", "APr", "APc", "APf", "APr_shape"]
    assert summary["a"]["AP"] == {
        **{"mean": 4.0, "std": pytest.approx(math.sqrt(13)), "n": 3},
        "values": [1.0, 3.0, 8.0],
    }
    assert summary["a"]["APr_shape"] == {"mean": 6.0, "std": 0.0, "n": 3, "values": [6.0] * 3}
    assert summary["b"]["AP"] == {"mean": 1.0, "std": None, "n": 1, "values": [1.0]}


def test_no_ground_truth_is_no_number():
    summary = summarise({"a": [{**RUN, "APf": math.nan}, RUN]})
    assert summary["a"]["APf"] == {"mean": None, "std": None, "n": 2, "values": [None, 5.0]}


def test_refuses_runs_of_different_metrics():
    with pytest.raises(ValueError, match="runs of a"):
        summarise({"a": [RUN, {"AP": 1.0}]})


def test_plot(tmp_path):
    """As wide as a page, however many variants there are."""
    path, sizes = tmp_path / "new" / "plot.png", []
    for variants in (("a_variant",), map(str, range(19))):
        runs = {variant: [RUN, RUN] for variant in variants}
        plot_summary(summarise({**runs, "b": [{**RUN, "APf": math.nan}]}), path)
        with Image.open(path) as image:
            assert image.format == "PNG"
            sizes.append(image.size)
    (width, height), (same, taller) = sizes
    assert 400 < width == same <= 1200 and taller > 5 * height
