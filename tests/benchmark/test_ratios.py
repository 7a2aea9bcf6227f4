import pytest

from benchmark.ratios import (
    DEFAULT,
    Ratio,
    arithmetic_ratios,
    default_ratios,
    evaluate,
    over_first,
)

DEFAULT_NAMES = {
    "inference_vild_over_gridclip_official",
    "inference_vild_over_gridclip_matched",
    "inference_vild_ensemble_over_gridclip_official",
    "inference_vild_ensemble_over_gridclip_matched",
    "training_step_vild_over_gridclip",
    "training_total_vild_over_gridclip",
    "inference_gridclip_over_fcos",
    "inference_fasterrcnn_over_gridclip",
    "inference_vild_over_gridclip_official_detectron2_nms",
    "inference_vild_ensemble_over_gridclip_official_detectron2_nms",
    "inference_gridclip_light_over_gridclip",
    "inference_gridclip_bfloat16_over_gridclip",
    "inference_gridclip_float16_over_gridclip",
    "inference_gridclip_compiled_over_gridclip",
    "training_step_gridclip_over_fcos",
    "training_memory_gridclip_over_fcos",
    "classifier_share_1203",
    "classifier_share_21k",
    "lvis_eval_api_over_ours",
}

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


def test_names_of_the_default_ratios():
    measured = {"classifier_share": 0.1}
    inference = {"gridclip": measured, "gridclip_21k": {"classifier_share": 0.2}}
    sections = dict.fromkeys(("training", "memory", "training_cost", "arithmetic"), {})
    record = {"inference": inference, "lvis_evaluation": None, **sections}
    inference["gridclip"].update(seconds=[1.0], p50=1.0)
    stages = {"post-processing": 0.5}
    inference["vild"] = {"seconds": [2.0], "p50": 2.0, "stages": stages}
    inference["vild"].update(matched_seconds=[2.0], naive_post_processing=3.0)
    inference["gridclip"]["matched_seconds"] = [1.0]
    found = default_ratios(record)
    assert set(found) == DEFAULT_NAMES
    assert found["inference_vild_over_gridclip_official"] == 2
    assert found["inference_vild_over_gridclip_official_detectron2_nms"] == 4.5
    assert found["inference_vild_ensemble_over_gridclip_official_detectron2_nms"] is None
    assert found["classifier_share_1203"] == 0.1 and found["classifier_share_21k"] == 0.2
    assert found["lvis_eval_api_over_ours"] is None
    record["lvis_evaluation"] = {"lvis_eval_api_over_ours": 7.0}
    assert default_ratios(record)["lvis_eval_api_over_ours"] == 7
