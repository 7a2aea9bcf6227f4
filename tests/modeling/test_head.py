"""The heads: against detectron2's FCOS, and the distributions against the paper's formulas."""

import pytest
import torch
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from hypothesis import given
from hypothesis import strategies as st

from gridclip.modeling import DistributionHead, GridHead

SIZES = {"in_channels": 64, "num_levels": 5, "conv_dims": [64], "embed_dim": 32}


@pytest.mark.parametrize(("kind", "outputs"), [(GridHead, 4), (DistributionHead, 4 * 17)])
def test_head_is_fcos_head_but_for_embedding_and_distribution(kind, outputs):
    head = kind(**SIZES)
    assert isinstance(head, FCOSHead)
    features = [torch.randn(2, 64, 8 // 2**i or 1, 12 // 2**i or 1) for i in range(5)]
    grid_features, boxes, centerness = head(features)
    assert [x.shape for x in grid_features][:2] == [(2, 96, 64), (2, 24, 64)]
    assert head.grid_embedding(grid_features[0]).shape == (2, 96, 32)
    expected = head.cls_subnet(features[1])[1, :, 2, 3]
    torch.testing.assert_close(grid_features[1][1, 2 * 6 + 3], expected)
    assert boxes[0].shape == (2, 96, outputs) and head.deltas(boxes[0]).shape == (2, 96, 4)
    box = head.bbox_pred(head.bbox_subnet(features[1]))
    torch.testing.assert_close(boxes[1][1, 2 * 6 + 3], box[1, :, 2, 3])
    assert centerness[0].shape == (2, 96, 1)


def test_deltas_without_a_distribution_are_the_heads_own():
    head = GridHead(**SIZES, box_bias=4.0)
    assert torch.equal(head.bbox_pred.bias, torch.full((4,), 4.0))
    deltas = torch.randn(3, 4)
    assert torch.equal(head.deltas(deltas), deltas)


@pytest.fixture
def head():
    return DistributionHead(**SIZES, max_delta=8)


def test_a_delta_is_the_mean_of_its_distribution(head):
    torch.testing.assert_close(head.deltas(torch.zeros(2, 36)), torch.full((2, 4), 4.0))
    logits = torch.full((4, 9), -100.0)
    logits[0, 0] = logits[1, 8] = 0.0
    logits[2, [2, 3]] = 0.0
    logits[3, [1, 5]] = torch.tensor([0.75, 0.25]).log()
    torch.testing.assert_close(head.deltas(logits.flatten()), torch.tensor([0.0, 8.0, 2.5, 2.0]))


def test_first_deltas_lie_in_the_middle_and_learn_from_both_sides(head):
    features = [torch.randn(1, 64, 4, 4)] * 5
    deltas = head.deltas(head(features)[1][0])
    assert (deltas - 4).abs().max() < 1.0
    deltas.sum().backward()
    assert head.bbox_pred.weight.grad.abs().min() > 0


def loss_by_the_paper(logits, delta):
    """Equation 6 of arXiv 2006.04388: -((y_(i+1) - y) log S_i + (y - y_i) log S_(i+1))."""
    i = min(int(delta), len(logits) - 2)
    log_s = logits.log_softmax(0)
    return -((i + 1 - delta) * log_s[i] + (delta - i) * log_s[i + 1])


@given(st.lists(st.floats(0, 8, width=32), min_size=4, max_size=4), st.integers(0, 1000))
def test_loss_is_the_papers(deltas, seed):
    head = DistributionHead(**SIZES, max_delta=8, distribution_weight=0.5)
    logits = torch.randn(1, 36, generator=torch.Generator().manual_seed(seed))
    loss = head.distribution_loss(logits, torch.tensor([deltas]))
    expected = [loss_by_the_paper(x, y) for x, y in zip(logits.view(4, 9), deltas, strict=True)]
    torch.testing.assert_close(loss, 0.5 * torch.stack(expected).mean()[None], atol=1e-5, rtol=1e-5)


@given(st.floats(0, 8, width=32))
def test_the_best_distribution_has_the_delta_as_its_mean(delta):
    """The loss has no gradient where the two neighbours share the delta."""
    head = DistributionHead(**SIZES, max_delta=8)
    shares = (1 - (torch.arange(9) - delta).abs()).clamp(min=0)
    logits = shares.clamp(min=1e-12).log().repeat(4)[None].requires_grad_()
    torch.testing.assert_close(head.deltas(logits), torch.full((1, 4), delta))
    head.distribution_loss(logits, torch.full((1, 4), delta)).sum().backward()
    assert logits.grad.abs().max() < 1e-5


def test_deltas_out_of_reach_are_the_furthest(head):
    logits = torch.randn(2, 36)
    far = head.distribution_loss(logits, torch.tensor([[9.0] * 4, [-1.0] * 4]))
    ends = head.distribution_loss(logits, torch.tensor([[8.0] * 4, [0.0] * 4]))
    assert torch.equal(far, ends)


def test_a_bias_of_the_deltas_does_not_fit():
    with pytest.raises(TypeError, match="box_bias"):
        DistributionHead(**SIZES, box_bias=4.0)


def test_nothing_to_learn_is_no_loss(head):
    assert head.distribution_loss(torch.zeros(0, 36), torch.zeros(0, 4)).shape == (0,)


def test_mixed_precision_does_not_round_deltas(head):
    logits = torch.randn(5, 36)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        deltas = head.deltas(logits)
    assert torch.equal(deltas, head.deltas(logits))


def test_the_detector_learns_the_true_deltas(tiny_gridclip, batch, monkeypatch):
    """Those of detectron2's transform, from each positive's own anchor, weighted as its box is."""
    model, asked = tiny_gridclip(image_alignment=None), []

    def note(self, outputs, deltas):
        asked.append(deltas)
        return outputs.new_ones(len(outputs))

    monkeypatch.setattr(DistributionHead, "distribution_loss", note)
    found = []
    assign = model.assignment

    class Noted(type(assign)):
        def __call__(self, *args):
            found.append(super().__call__(*args))
            return found[0]

    model.assignment = Noted()
    with EventStorage():
        losses = model.train()(batch())
    targets = found[0]
    positive = targets.labels != model.num_classes
    shapes = model.backbone(model.preprocess_image(batch()).tensor)
    anchors = Boxes.cat(model.anchor_generator([shapes[n] for n in model.head_in_features])).tensor
    anchors = anchors.expand(2, -1, -1)[positive]
    rebuilt = model.box2box_transform.apply_deltas(asked[0], anchors)
    torch.testing.assert_close(rebuilt, targets.boxes[positive])
    weight = model.box_loss_weight * targets.scores[positive].sum() / targets.normalizer
    torch.testing.assert_close(losses["loss_box_distribution"], weight)
