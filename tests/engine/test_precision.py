"""train.inference.dtype=auto takes the fastest type that is exact enough."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from gridclip.engine import precision
from gridclip.engine.prepare import prepare_text_embeddings
from gridclip.engine.train import build_evaluator, build_model, do_test
from gridclip.modeling import CLIPFPN, optimize_for_inference


@pytest.fixture
def cfg(world_config):
    cfg = world_config()
    prepare_text_embeddings(cfg, instantiate(cfg.data.train))
    cfg.train.inference.dtype = "auto"
    return cfg


@pytest.fixture
def slowed(monkeypatch):
    """Seconds by the dtype that the backbone computes in, which stand in for the machine's."""
    seconds: dict[torch.dtype, float] = {}
    clock = [0.0]
    forward = CLIPFPN.forward

    def slow(backbone, x):
        features = forward(backbone, x)
        clock[0] += seconds[features["p3"].dtype]
        return features

    # Random weights amplify rounding: bfloat16 moves these scores by 0.022.
    monkeypatch.setattr(precision, "TOLERANCE", 0.05)
    monkeypatch.setattr(CLIPFPN, "forward", slow)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock[0])
    return seconds


@pytest.mark.parametrize(
    ("of_float32", "of_bfloat16", "chosen"),
    [(1.0, 0.5, "bfloat16"), (1.0, 1.7, "float32"), (1.0, 0.95, "float32")],
)
def test_the_faster_type_is_taken(cfg, slowed, of_float32, of_bfloat16, chosen):
    slowed.update({torch.float32: of_float32, torch.bfloat16: of_bfloat16})
    fast = optimize_for_inference(build_model(cfg))
    assert precision.use_configured_precision(cfg, fast) == getattr(torch, chosen)
    features = []
    fast.backbone.register_forward_hook(lambda _, __, out: features.append(out["p3"].dtype))
    fast([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}])
    assert features == [getattr(torch, chosen)]


@pytest.mark.parametrize("worse", [0.1, float("nan")])
def test_a_type_that_moves_scores_is_not_taken(cfg, slowed, monkeypatch, worse):
    slowed.update({torch.float32: 1.0, torch.bfloat16: 0.5})
    fast = optimize_for_inference(build_model(cfg))
    forward = type(fast).forward

    def move(model, inputs):
        results = forward(model, inputs)
        if torch.is_autocast_enabled("cpu"):
            for result in results:
                result["instances"].scores = result["instances"].scores + worse
        return results

    monkeypatch.setattr(type(fast), "forward", move)
    precision.set_precision(fast, torch.float32)
    assert precision.use_configured_precision(cfg, fast) == torch.float32


def test_the_choice_is_in_the_results(cfg, slowed):
    slowed.update({torch.float32: 1.0, torch.bfloat16: 0.5})
    model = build_model(cfg)
    do_test(cfg, model, build_evaluator(cfg, model.classifier.names))
    written = json.loads(Path(cfg.train.output_dir, "results.json").read_text())
    assert written["inference_dtype"] == "bfloat16"
    assert written["config"]["train"]["inference"]["dtype"] == "auto"


def test_the_real_clock_chooses_without_a_change_of_the_model(cfg):
    model = build_model(cfg)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    precision.build_inference_model(cfg, model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_differences_of_scores():
    a, b = torch.tensor([0.9, 0.5]), torch.tensor([0.8, 0.5, 0.1])
    assert precision._difference(a, b) == pytest.approx(0.1)
    assert precision._difference(a[:0], b[:0]) == 0
    assert precision._difference(a, b[:0]) == float("inf")
