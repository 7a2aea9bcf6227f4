from types import SimpleNamespace

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from gridclip.modeling.federated_loss import (
    federated_classes,
    federated_focal_loss,
    sample_classes,
)

C = 6
FOCAL = dict(alpha=0.25, gamma=2.0)


def labels(positive=(), negative=(), not_exhaustive=()):
    positive, negative, not_exhaustive = (
        torch.tensor(x, dtype=torch.long) for x in (positive, negative, not_exhaustive)
    )
    return {
        "instances": SimpleNamespace(gt_classes=positive),
        "negative_classes": negative,
        "not_exhaustive_classes": not_exhaustive,
    }


def plain_loss(all_logits, gt_labels, images, sampled):
    """torchvision's focal loss over the full (N, R, C) matrix, known pairs picked one by one."""
    total = all_logits.new_zeros(())
    for i, image in enumerate(images):
        positive = image["instances"].gt_classes.tolist()
        known = {*positive, *image["negative_classes"].tolist(), *sampled.tolist()}
        for r in range(all_logits.shape[1]):
            for c in known:
                is_positive = gt_labels[i, r].item() == c
                if not is_positive and c in image["not_exhaustive_classes"].tolist():
                    continue
                total = total + torchvision.ops.sigmoid_focal_loss(
                    all_logits[i, r, c], torch.tensor(float(is_positive)), **FOCAL
                )
    return total


@settings(max_examples=30)
@given(data=st.data())
def test_loss_equals_plain_loop(data):
    ids = st.lists(st.integers(0, C - 1), max_size=3)
    images, rows = [], []
    for _ in range(2):
        positive = data.draw(ids)
        images.append(labels(positive, data.draw(ids), data.draw(st.sampled_from([[], positive]))))
        rows.append(data.draw(st.lists(st.sampled_from([C, *positive]), min_size=4, max_size=4)))
    sampled = torch.tensor(data.draw(ids), dtype=torch.long)
    gt_labels = torch.tensor(rows)
    logits = torch.randn(2, 4, C, generator=torch.Generator().manual_seed(0))

    classes, negatives = federated_classes(images, sampled, C)
    loss = federated_focal_loss(logits[..., classes], gt_labels, classes, negatives, **FOCAL)
    torch.testing.assert_close(loss, plain_loss(logits, gt_labels, images, sampled))


def test_unknown_category_gets_no_gradient():
    images = [labels([0], [1]), labels([2], [])]
    classes, negatives = federated_classes(images, torch.empty(0, dtype=torch.long), C)
    assert classes.tolist() == [0, 1, 2]
    logits = torch.zeros(2, 3, 3, requires_grad=True)
    gt_labels = torch.tensor([[0, C, C], [2, C, C]])
    federated_focal_loss(logits, gt_labels, classes, negatives, **FOCAL).backward()
    # In the first image category 2 is unknown, in the second 0 and 1 are.
    assert (logits.grad[0, :, 2] == 0).all() and (logits.grad[1, :, :2] == 0).all()
    assert (logits.grad[0, :, :2] != 0).all() and (logits.grad[1, :, 2] != 0).all()


def test_not_exhaustive_category_is_no_negative():
    images = [labels([0, 1], [], [1])]
    classes, negatives = federated_classes(images, torch.empty(0, dtype=torch.long), C)
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    gt_labels = torch.tensor([[0, 1, C]])
    federated_focal_loss(logits, gt_labels, classes, negatives, **FOCAL).backward()
    assert logits.grad[0, :, 1].ne(0).tolist() == [False, True, False]
    assert logits.grad[0, :, 0].ne(0).tolist() == [True, True, True]


def test_nothing_known_is_zero_and_has_a_gradient():
    classes, negatives = federated_classes([labels()], torch.empty(0, dtype=torch.long), C)
    logits = torch.zeros(1, 3, len(classes), requires_grad=True)
    loss = federated_focal_loss(logits, torch.full((1, 3), C), classes, negatives, **FOCAL)
    loss.backward()
    assert loss.item() == 0 and logits.grad.shape == (1, 3, 0)


def test_sampling_leaves_out_categories_of_weight_zero():
    weights = torch.tensor([1.0, 0.0, 2.0, 0.0, 3.0])
    drawn = {i for seed in range(50) for i in sample_classes(weights, 2, seed).tolist()}
    assert drawn == {0, 2, 4}
    assert sorted(sample_classes(weights, 10, 0).tolist()) == [0, 2, 4]
    assert sample_classes(torch.zeros(5), 3, 0).numel() == 0


def test_sampling_depends_on_the_seed_alone():
    weights = torch.rand(100)
    first = sample_classes(weights, 10, 7)
    torch.rand(3)
    assert sample_classes(weights, 10, 7).tolist() == first.tolist()
    assert sample_classes(weights, 10, 8).tolist() != first.tolist()
    assert len(set(first.tolist())) == 10


@pytest.mark.parametrize("seed", range(3))
def test_sampling_follows_the_weights(seed):
    weights = torch.tensor([1.0, 9.0])
    counts = torch.bincount(
        torch.cat([sample_classes(weights, 1, 1000 * seed + i) for i in range(300)]), minlength=2
    )
    assert 0.03 < counts[0] / 300 < 0.2
