import pytest

from benchmark.ratios import DEFAULT, Ratio, arithmetic_ratios, evaluate, over_first

RECORD = {
    "inference": {
        "a": {"seconds": [1.0, 2.0, 10.0], "matched_seconds": [1.0, 1.0, 1.0]},
        "b": {"seconds": [2.0, 6.0, 10.0], "matched_seconds": [5.0, 4.0, 3.0]},
    },
    "training": {"a": {"seconds": [1.0]}},
    "memory": {"a": {"tensors": 10.0}, "b": {"tensors": 5.0}},
    "training_cost": {"a": {"seconds": 2.0}, "b": {"seconds": 8.0}},
    "arithmetic": {"a": {"gmac": 4.0}, "b": {"gmac": 6.0}},
}


def test_times_are_compared_run_by_run():
    assert evaluate(RECORD, Ratio("official", "b", "a")) == 2  # of 2, 3 and 1
    assert evaluate(RECORD, Ratio("official", "a", "b")) == 0.5
    assert evaluate(RECORD, Ratio("matched", "b", "a")) == 4


def test_single_figures_and_what_was_not_measured():
    assert evaluate(RECORD, Ratio("memory", "b", "a")) == 0.5
    assert evaluate(RECORD, Ratio("total", "b", "a")) == 4
    assert evaluate(RECORD, Ratio("step", "b", "a")) is None


def test_names_of_any_two_configs_and_their_arithmetic():
    names = over_first(["a", "b"])
    assert names["inference_b_over_a_matched"] == Ratio("matched", "b", "a")
    assert names["training_total_b_over_a"] == Ratio("total", "b", "a")
    assert len(names) == 5 and len(over_first(["a", "b", "c"])) == 10
    assert arithmetic_ratios(RECORD, names) == {
        "inference_b_over_a_official": 1.5,
        "inference_b_over_a_matched": 1.5,
    }


@pytest.mark.parametrize("name", DEFAULT)
def test_default_names_say_what_is_over_what(name):
    ratio = DEFAULT[name]
    _, _, rest = name.partition("inference_" if "inference" in name else "_")
    top, bottom = (part.replace("fasterrcnn", "faster_rcnn") for part in rest.split("_over_"))
    assert top.endswith(ratio.top.removesuffix("_official")) or ratio.kind == "total"
    assert bottom.startswith(ratio.bottom.removesuffix("_1x"))
    if ratio.kind in ("official", "matched"):
        assert bottom.endswith(("matched" if ratio.kind == "matched" else "official", ratio.bottom))
