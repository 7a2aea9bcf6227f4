"""What is computed in float32 under automatic mixed precision, and that nothing is left on the
CPU, without a GPU."""

import copy

import pytest
import torch
from detectron2.utils.events import EventStorage

from gridclip.modeling import (
    BackboneImageAlignment,
    ClosedSetClassifier,
    DenseImageAlignment,
    FCOSAssignment,
    GridCLIP,
    GridImageAlignment,
    TaskAlignedAssignment,
    TextClassifier,
)
from gridclip.modeling.image_alignment import ImageAlignment
from half_precision import HalfOperators, watched
from pretended_gpu import pretended_gpu

ALIGNMENTS = {
    "dense": lambda loss: DenseImageAlignment(loss=loss),
    "backbone": lambda loss: BackboneImageAlignment(loss=loss),
    "grid": lambda loss: GridImageAlignment(
        loss=loss, in_features=["p3", "p4", "p5", "p6", "p7"], in_channels=64
    ),
}
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a real GPU is tested in tests/gpu")


def losses_of(model, inputs, step=1000, dtype=None):
    with EventStorage(step), torch.autocast("cpu", dtype, enabled=dtype is not None):
        return model(inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_losses_logits_and_boxes_are_computed_in_float32(tiny_gridclip, batch, dtype, alignment):
    model = tiny_gridclip(image_alignment=ALIGNMENTS[alignment]("cosine")).train()
    places = [(GridCLIP, "detection_losses"), (ImageAlignment, "forward")]
    for step in (0, 1000):  # by FCOS's matching and by the predictions
        expected = losses_of(copy.deepcopy(model), batch(), step)
        with watched(*places) as seen, HalfOperators() as everywhere:
            losses = losses_of(copy.deepcopy(model), batch(), step, dtype)
        assert everywhere.seen["convolution"] > 10  # autocast is at work
        assert seen == {"GridCLIP.detection_losses": {}, "ImageAlignment.forward": {}}
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        for name, loss in losses.items():
            assert loss.item() == pytest.approx(expected[name].item(), rel=0.1), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_are_float32_and_finite(tiny_gridclip, batch, dtype):
    model = tiny_gridclip().train()
    sum(losses_of(model, batch(), dtype=dtype).values()).backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_and_boxes_of_inference_are_computed_in_float32(tiny_gridclip, batch, dtype):
    model = tiny_gridclip().eval()
    places = [(GridCLIP, "forward_inference"), (GridCLIP, "_dense_probabilities")]
    with watched(*places) as seen, torch.no_grad(), torch.autocast("cpu", dtype):
        found = model(batch())[0]["instances"]
    assert seen == {"GridCLIP.forward_inference": {}, "GridCLIP._dense_probabilities": {}}
    assert found.scores.dtype == found.pred_boxes.tensor.dtype == torch.float32


@pytest.mark.parametrize("kind", [TextClassifier, ClosedSetClassifier])
def test_cosines_are_computed_in_float32(vocabulary, kind):
    classifier, x = kind(vocabulary(6), embed_dim=32), torch.randn(5, 32)
    with torch.autocast("cpu", torch.bfloat16), HalfOperators() as operators:
        logits = classifier(x.bfloat16())
    assert logits.dtype == torch.float32 and operators.seen == {}


def test_the_watch_sees_half_precision():
    a = torch.randn(4, 4)
    with HalfOperators() as operators, torch.autocast("cpu", torch.bfloat16):
        (a @ a).float().sum()
    assert operators.seen == {"mm": 1}


@no_gpu
@pytest.mark.parametrize("step", [0, 1000])
@pytest.mark.parametrize("assignment", [TaskAlignedAssignment(), FCOSAssignment()])
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_training_leaves_nothing_on_the_cpu(tiny_gridclip, batch, step, assignment, alignment):
    """And has the CPU's losses."""
    loss = "contrastive" if step else "cosine"
    parts = {"assignment": assignment, "image_alignment": ALIGNMENTS[alignment](loss)}
    parts["federated_weights"] = torch.ones(6)
    model = tiny_gridclip(**parts).train()
    expected = losses_of(copy.deepcopy(model), batch(), step)
    with pretended_gpu():
        losses = losses_of(model.to("cuda"), batch(), step)
        assert {loss.device.type for loss in losses.values()} == {"cuda"}
        assert all(p.device.type == "cuda" for p in model.parameters())
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}
    )


@no_gpu
def test_inference_leaves_nothing_on_the_cpu(tiny_gridclip, vocabulary, batch):
    """Also with another vocabulary, whose left out names compete."""
    model = tiny_gridclip().eval()
    for words in (None, vocabulary(3)):
        if words is not None:
            model.set_vocabulary(words)
        with torch.no_grad():
            expected = model(batch())[0]["instances"]
        on_gpu = copy.deepcopy(model)
        with pretended_gpu(), torch.no_grad():
            on_gpu.to("cuda")
            if words is not None:
                on_gpu.set_vocabulary(words)
            found = on_gpu(batch())[0]["instances"]
            on_gpu.score_maps(batch())
            assert found.pred_boxes.device.type == found.scores.device.type == "cuda"
            boxes = found.to("cpu").pred_boxes.tensor
        torch.testing.assert_close(boxes, expected.pred_boxes.tensor)


@no_gpu
def test_the_pretended_gpu_refuses_what_cuda_refuses():
    with pretended_gpu():
        gpu, cpu = torch.ones(3, device="cuda"), torch.ones(3)
        assert (gpu + torch.tensor(1.0)).tolist() == [2.0, 2.0, 2.0]
        assert gpu[torch.tensor([0, 2])].device.type == "cuda"
        assert gpu.cpu().device.type == "cpu"
        for run in (
            lambda: gpu + cpu,
            lambda: torch.cat([gpu, cpu]),
            lambda: cpu[torch.arange(2, device="cuda")],
            lambda: gpu.index_put((torch.tensor([0]),), torch.ones(1)),
            lambda: torch.nn.Linear(3, 1)(gpu),
        ):
            with pytest.raises(RuntimeError, match="on the CPU"):
                run()
