"""ViLD under automatic mixed precision, and on a pretended GPU."""

import copy

import pytest
import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.utils.events import EventStorage

from gridclip.vild import ViLDClassifier, ViLDOutputLayers, ViLDROIHeads
from gridclip.vild import roi_heads as roi_heads_module
from half_precision import HalfOperators, watched
from pretended_gpu import pretended_gpu

PLACES = [
    (RPN, "losses"),
    (RPN, "predict_proposals"),
    (ViLDROIHeads, "label_and_sample_proposals"),
    (ViLDClassifier, "training_logits"),
    (ViLDOutputLayers, "losses"),
    (roi_heads_module, "distillation_loss"),
]


def losses_of(model, inputs, dtype=None):
    torch.manual_seed(0)  # of the sampled proposals
    with EventStorage(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        return model(inputs)


@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_logits_and_boxes_are_computed_in_float32(tiny_vild, batch, dtype, ensemble):
    model = tiny_vild(ensemble=ensemble).train()
    with watched(*PLACES) as seen, HalfOperators() as everywhere:
        losses = losses_of(model, batch(), dtype)
    assert everywhere.seen["convolution"] > 10 and everywhere.seen["addmm"] > 0
    assert len(seen) == len(PLACES) and all(counts == {} for counts in seen.values()), seen
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_and_boxes_of_inference_are_computed_in_float32(tiny_vild, batch, dtype):
    model = tiny_vild(ensemble=True).eval()
    places = [(ViLDOutputLayers, "inference"), (ViLDClassifier, "forward")]
    with watched(*places) as seen, torch.no_grad(), torch.autocast("cpu", dtype):
        found = model(batch())[0]["instances"]
    assert seen == {"ViLDOutputLayers.inference": {}, "ViLDClassifier.forward": {}}
    assert found.scores.dtype == found.pred_boxes.tensor.dtype == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="a real GPU is tested in tests/gpu")
@pytest.mark.parametrize("ensemble", [False, True])
def test_nothing_is_left_on_the_cpu(tiny_vild, batch, ensemble):
    """In training, with the CPU's losses, and in inference."""
    model = tiny_vild(ensemble=ensemble).train()
    expected = losses_of(copy.deepcopy(model), batch())
    with pretended_gpu():
        losses = losses_of(model.to("cuda"), batch())
        assert {loss.device.type for loss in losses.values()} == {"cuda"}
        with torch.no_grad():
            found = model.eval()(batch())[0]["instances"]
        assert found.pred_boxes.device.type == found.scores.device.type == "cuda"
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}
    )
