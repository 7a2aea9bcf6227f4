"""Inference, training, arithmetic and random weights of very small detectors; no time is tested."""

import pytest
import torch
from torch import nn

from benchmark import memory
from benchmark.arithmetic import count_arithmetic
from benchmark.inference import InferenceRuns, measure_inference
from benchmark.inputs import training_batch
from benchmark.random_weights import calibrate_norms, calibrate_scores
from benchmark.stages import STAGES, StageClock, stage_functions, timed_stages
from benchmark.training import ImageLevelTerm, TeacherPass
from gridclip.modeling import optimize_for_inference

DETECTORS = ("gridclip", "vild", "vild_ensemble", "fcos")


@pytest.mark.parametrize("name", DETECTORS)
def test_every_stage_is_timed_and_nothing_stays_wrapped(tiny, batch, name):
    model, clock = optimize_for_inference(tiny(name)), StageClock("cpu")
    functions = stage_functions(model)
    before = [getattr(f.owner, f.attribute) for f in functions]
    with torch.inference_mode():
        plain = model(batch)[0]["instances"]
        with timed_stages(model, clock), clock.stage("other"):
            timed = model(batch)[0]["instances"]
    assert torch.equal(plain.scores, timed.scores)
    assert set(clock.seconds) == {f.stage for f in functions} | {"other"} <= set(STAGES)
    assert min(clock.seconds.values()) > 0
    assert [getattr(f.owner, f.attribute) for f in functions] == before


@pytest.mark.parametrize("name", DETECTORS)
def test_runs_are_summed_up(tiny, batch, name):
    runs = InferenceRuns(tiny(name), "cpu", matched_threshold=0.3)
    measure_inference({name: runs}, [batch], 3)
    found = runs.summary()
    assert len(found["seconds"]) == len(found["matched_seconds"]) == 3
    assert min(found["seconds"]) <= found["p50"] <= found["p90"] <= max(found["seconds"])
    assert found["images_per_second"] == 1 / found["p50"]
    whole = [sum(stages) for stages in zip(*runs.stages.values(), strict=True)]
    assert whole == pytest.approx(runs.seconds)
    assert 0 < found["classifier_share"] < 1
    vild = name.startswith("vild")
    assert (found["naive_post_processing"] is not None) == vild
    if vild:  # a higher threshold lets fewer pairs through
        assert found["matched_candidates_per_image"] < found["candidates_per_image"]
        assert found["matched_seconds"] != found["seconds"]
    else:
        assert found["matched_seconds"] == found["seconds"]


def test_random_norms_make_signals_of_unit_size(tiny, batch):
    model = tiny("gridclip")
    calibrate_norms(model, batch)
    outputs = []
    # CLIP's ReLU after the norm changes its output in place.
    norm = model.backbone.bottom_up.bn2
    norm.register_forward_hook(lambda _, __, out: outputs.append(out.clone()))
    model(batch)
    assert outputs[0].mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert (outputs[0].var(dim=(0, 2, 3)) - 1).abs().max() < 1e-2


def test_as_many_pairs_as_wanted_pass_the_threshold(tiny, batch):
    model = tiny("fcos")
    calibrate_norms(model, batch)
    calibrate_scores(model, batch, survivors=40)
    runs = InferenceRuns(model, "cpu", matched_threshold=0.0)
    runs.warm_up(batch)
    assert 38 <= runs.candidates <= 40  # the last one may be rounded to the threshold


@pytest.mark.parametrize("name", ["gridclip", "fcos"])
def test_no_category_is_favoured(tiny, batch, name):
    model = tiny(name)
    calibrate_norms(model, batch)
    calibrate_scores(model, batch)
    assert len(model(batch)[0]["instances"].pred_classes.unique()) > 4


@pytest.mark.parametrize("name", ["gridclip", "fcos", "vild"])
def test_multiply_adds_of_convolutions_and_parameters(tiny, batch, reference_conv_macs, name):
    model, expected, hooks = tiny(name), 0, []

    def add(conv, _, output):
        nonlocal expected
        expected += reference_conv_macs(conv, output)

    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    hooks = [conv.register_forward_hook(add) for conv in convs]
    with torch.no_grad():
        model(batch)
    for hook in hooks:
        hook.remove()
    found = count_arithmetic(model, batch[0])
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert sum(found["gmac_by_stage"].values()) == pytest.approx(found["gmac"])
    assert min(found["gmac_by_stage"].values()) > 0
    # The rest are linear layers and norms.
    assert expected / 1e9 < found["gmac"] < 1.3 * expected / 1e9


def test_image_level_term_is_the_models_own(tiny, batch):
    model = tiny("gridclip").train()
    batch = training_batch(model, [batch[0]["image"]], "tiles9")
    assert batch[0]["image_embeddings"].shape == (9, 32)
    term, clock = ImageLevelTerm(model, batch), StageClock("cpu")
    term(clock)
    assert clock.seconds["forward"] > 0
    _, features, grid_features, *_ = term.inputs
    gradients = [x.grad for x in (*features.values(), grid_features) if x.grad is not None]
    assert sum(gradient.abs().sum() for gradient in gradients) > 0
    teacher = TeacherPass(model, batch)
    teacher(clock)
    assert len(teacher.images) == 9 and teacher.side == 64


def test_novel_categories_are_not_annotated(tiny, batch):
    model = tiny("vild")
    batch = training_batch(model, 20 * [batch[0]["image"]], "whole")
    classes = torch.cat([x["instances"].gt_classes for x in batch])
    assert set(classes.tolist()) == set(range(9)) - {2}


def test_peak_counts_tensors_alive_at_once():
    def run():
        a = torch.zeros(2**20)
        b = a + 1
        del a
        return b + 1

    assert 2 * 2**22 <= memory.peak_tensors(run) < 2.1 * 2**22


def test_peak_of_the_resident_set_sees_memory_that_is_used():
    def run():
        for _ in range(20):
            torch.ones(2**24)

    assert memory.peak_resident(run) > 2**25
