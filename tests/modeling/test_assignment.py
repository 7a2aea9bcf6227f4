import copy
from types import SimpleNamespace

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torchvision.ops import box_iou, sigmoid_focal_loss

from gridclip.modeling import FCOSAssignment, TaskAlignedAssignment
from gridclip.modeling.federated_loss import federated_varifocal_loss
from ranks import run_ranks

CLASSES = torch.tensor([1, 3, 4])
DETECTOR = SimpleNamespace(num_classes=6)


def grid(side=8, stride=8.0):
    """Anchors of one level of side x side locations."""
    x = (torch.arange(side) + 0.5) * stride
    centers = torch.cartesian_prod(x, x).flip(1)
    return [Boxes(torch.cat([centers - stride / 2, centers + stride / 2], dim=1))]


def objects(boxes, classes):
    gt = Instances((64, 64))
    gt.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    gt.gt_classes = torch.tensor(classes, dtype=torch.long)
    return gt


def assign(assignment, gts, boxes, logits, iteration=1000, detector=DETECTOR):
    with EventStorage(iteration):
        return assignment(detector, grid(), gts, boxes, logits, CLASSES)


def predictions(seed, images=1):
    """Boxes around the locations, and logits."""
    generator = torch.Generator().manual_seed(seed)
    anchors = grid()[0]
    half = 4 + 20 * torch.rand(images, len(anchors), 4, generator=generator)
    sign = torch.tensor([-1, -1, 1, 1])
    boxes = anchors.get_centers().repeat(1, 2) + sign * half
    return boxes, torch.randn(images, len(anchors), 3, generator=generator)


def plain(gt, boxes, logits, topk, power):
    """Task-aligned assignment in plain loops: a dict from location to (object, target, IoU)."""
    centers = grid()[0].get_centers()
    truth, chosen = gt.gt_boxes.tensor, {}
    t = torch.zeros(len(gt), len(centers))
    iou = box_iou(truth, boxes)
    for m, (box, label) in enumerate(zip(truth, gt.gt_classes, strict=True)):
        column = CLASSES.tolist().index(int(label))
        for r, (x, y) in enumerate(centers):
            if box[0] < x < box[2] and box[1] < y < box[3]:
                t[m, r] = logits[r, column].sigmoid() * iou[m, r] ** power
        for r in sorted(range(len(centers)), key=lambda r: -t[m, r])[:topk]:
            if t[m, r] > 0 and (r not in chosen or iou[m, r] > iou[chosen[r], r]):
                chosen[r] = m
    found = {}
    for r, m in chosen.items():
        mine = [k for k, owner in chosen.items() if owner == m]
        scale = max(iou[m, k] for k in mine) / max(t[m, k] for k in mine)
        found[r] = (m, float(t[m, r] * scale), float(iou[m, r]))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_equals_plain_loops(seed):
    """Objects that overlap, one within another, one that no location lies in."""
    gts = [
        objects([[2, 2, 60, 60], [20, 20, 44, 44], [24, 16, 63, 40], [1, 1, 3, 3]], [1, 3, 4, 1]),
        objects([[0, 0, 64, 64]], [4]),
    ]
    boxes, logits = predictions(seed, images=2)
    targets = assign(TaskAlignedAssignment(topk=7), gts, boxes, logits)
    for i, gt in enumerate(gts):
        expected = plain(gt, boxes[i], logits[i], topk=7, power=6)
        assert (targets.labels[i] != 6).nonzero().squeeze(1).tolist() == sorted(expected)
        for r, (m, score, overlap) in expected.items():
            assert targets.labels[i, r] == gt.gt_classes[m]
            assert torch.equal(targets.boxes[i, r], gt.gt_boxes.tensor[m])
            assert targets.scores[i, r].item() == pytest.approx(score, rel=1e-4)
            assert targets.quality[i, r].item() == pytest.approx(overlap, rel=1e-5)
        assert targets.scores[i][targets.labels[i] == 6].eq(0).all()
    torch.testing.assert_close(targets.normalizer, targets.scores.sum().clamp(min=1))


def test_best_location_of_an_object_has_its_largest_overlap_as_target():
    boxes, logits = predictions(3)
    targets = assign(TaskAlignedAssignment(), [objects([[8, 8, 50, 50]], [3])], boxes, logits)
    assert targets.scores.max() == targets.quality.max() > 0
    assert (targets.labels != 6).sum() == 13


@pytest.mark.parametrize("iteration", [0, 1000])
def test_images_without_objects(iteration, tiny_gridclip):
    boxes, logits = predictions(0)
    gts = [objects([], [])]
    detector = tiny_gridclip()
    targets = assign(TaskAlignedAssignment(), gts, boxes, logits, iteration, detector)
    assert targets.labels.eq(6).all() and targets.normalizer == 1
    assert targets.scores.eq(0).all() and targets.labels.dtype == torch.int64


def test_boxes_without_overlap_teach_nothing():
    boxes, logits = predictions(0)
    targets = assign(TaskAlignedAssignment(), [objects([[8, 8, 50, 50]], [3])], boxes + 900, logits)
    assert targets.labels.eq(6).all() and targets.scores.eq(0).all()


def test_of_equal_locations_as_many_as_topk_are_taken():
    anchors = grid()[0]
    boxes = torch.tensor([8.0, 8, 56, 56]).expand(1, len(anchors), 4)
    logits = torch.zeros(1, len(anchors), 3)
    targets = assign(TaskAlignedAssignment(topk=5), [objects([[8, 8, 56, 56]], [1])], boxes, logits)
    assert (targets.labels == 1).sum() == 5
    assert targets.scores[targets.labels == 1].eq(1).all()


def test_training_starts_with_fcos_matching(tiny_gridclip):
    detector = tiny_gridclip()
    gts, (boxes, logits) = [objects([[8, 8, 40, 40]], [3])], predictions(1)
    task_aligned = TaskAlignedAssignment(initial_steps=150)
    first = assign(task_aligned, gts, boxes, logits, 149, detector)
    fcos = assign(FCOSAssignment(), gts, boxes, logits, 149, detector)
    assert torch.equal(first.labels, fcos.labels) and fcos.normalizer is None
    positive = first.labels != 6
    assert positive.any() and torch.equal(positive.float(), fcos.scores)
    overlaps = box_iou(gts[0].gt_boxes.tensor, boxes[0])[0]
    torch.testing.assert_close(first.scores[0], overlaps * positive[0])
    torch.testing.assert_close(first.normalizer, (overlaps * positive[0]).sum().clamp(min=1))
    later = assign(task_aligned, gts, boxes, logits, 150, detector)
    assert not torch.equal(later.labels, first.labels)


def test_varifocal_loss_equals_the_paper_s_formula():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, generator=generator)
    labels = torch.tensor([[6, 1, 3, 6, 4], [6, 6, 1, 1, 6]])
    scores = torch.rand(2, 5, generator=generator)
    negatives = torch.tensor([[True, True, False], [True, True, True]])
    loss = federated_varifocal_loss(
        logits, labels, scores, CLASSES, negatives, alpha=0.75, gamma=2.0
    )
    expected = 0.0
    for n in range(2):
        for r in range(5):
            for k in range(3):
                p = logits[n, r, k].sigmoid()
                if labels[n, r] == CLASSES[k]:
                    q = scores[n, r]
                    expected -= q * (q * p.log() + (1 - q) * (1 - p).log())
                elif negatives[n, k]:
                    expected -= 0.75 * p**2 * (1 - p).log()
    torch.testing.assert_close(loss, expected)


def test_negatives_alone_are_torchvisions_focal_loss():
    logits = torch.randn(2, 5, 3)
    nothing = torch.full((2, 5), 6)
    loss = federated_varifocal_loss(
        logits,
        nothing,
        torch.zeros(2, 5),
        CLASSES,
        torch.ones(2, 3, dtype=torch.bool),
        alpha=0.75,
        gamma=2.0,
    )
    focal = sigmoid_focal_loss(logits, torch.zeros_like(logits), alpha=0.25, gamma=2.0)
    torch.testing.assert_close(loss, focal.sum())


def _losses_of_rank(model, inputs):
    torch.set_num_threads(1)
    with EventStorage(1000):
        losses = model([inputs[torch.distributed.get_rank()]])
    torch.distributed.barrier()
    return {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize("assignment", [TaskAlignedAssignment(), FCOSAssignment()])
def test_mean_of_two_ranks_is_the_loss_of_one_process(assignment, tiny_gridclip, batch, tmp_path):
    """One rank has all objects, the other none."""
    model, inputs = tiny_gridclip(assignment=assignment).train(), batch()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # one process has other statistics
    inputs[1]["image"] = inputs[0]["image"].flip(2)  # of one size, so that nothing is padded
    inputs[1]["instances"] = inputs[0]["instances"][:0]
    with EventStorage(1000):
        expected = {name: loss.item() for name, loss in copy.deepcopy(model)(inputs).items()}
    found = run_ranks(2, tmp_path, _losses_of_rank, model, inputs)
    mean = {name: (found[0][name] + found[1][name]) / 2 for name in expected}
    assert mean == pytest.approx(expected, rel=1e-4)
