import pytest
import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference_single_image

from gridclip.vild import roi_heads
from gridclip.vild.roi_heads import best_detections

SIZE = (400, 400)


def random_boxes(count, spread):
    corners = torch.rand(count, 2) * spread
    return torch.cat([corners, corners + 40 + 20 * torch.rand(count, 2)], dim=1)


@pytest.fixture
def candidates(monkeypatch):
    """Counts the pairs that reach NMS in each call."""
    counts = []

    def counting(boxes, scores, image_size, score_thresh, *args):
        counts.append(int((scores[:, :-1] > score_thresh).sum()))
        return fast_rcnn_inference_single_image(boxes, scores, image_size, score_thresh, *args)

    monkeypatch.setattr(roi_heads, "fast_rcnn_inference_single_image", counting)
    return counts


@pytest.mark.parametrize("spread", [340.0, 30.0, 0.5], ids=["apart", "crowded", "one place"])
@pytest.mark.parametrize("score_thresh", [0.0, 0.05])
@pytest.mark.parametrize("topk", [1, 10, 60, -1])
def test_equals_detectron2(spread, score_thresh, topk):
    boxes = random_boxes(100, spread)
    for scale in (1.0, 5.0):
        scores = (scale * torch.randn(100, 51)).softmax(dim=1)
        scores[scores < 1e-4] = 0  # as by underflow; never a detection
        arguments = (boxes, scores, SIZE, score_thresh, 0.5, topk)
        actual, kept = best_detections(*arguments)
        expected, expected_kept = fast_rcnn_inference_single_image(*arguments)
        assert torch.equal(actual.scores, expected.scores)
        assert torch.equal(actual.pred_classes, expected.pred_classes)
        assert torch.equal(actual.pred_boxes.tensor, expected.pred_boxes.tensor)
        assert torch.equal(kept, expected_kept)


def test_looks_at_few_pairs_and_at_more_if_they_suppress_each_other(candidates):
    scores = torch.rand(100, 51)
    best_detections(random_boxes(100, 340.0), scores, SIZE, 0.0, 0.5, 10)
    assert len(candidates) == 1 and candidates[0] < 160
    candidates.clear()
    scores[:, :6] += 1  # the 600 best pairs are of six categories, all in one place
    best_detections(random_boxes(100, 0.5), scores, SIZE, 0.0, 0.5, 30)
    assert candidates[0] == 479 and candidates[-1] > 479


def test_equal_scores_are_all_looked_at():
    boxes, scores = random_boxes(100, 340.0), torch.full((100, 51), 1 / 51)
    actual, _ = best_detections(boxes, scores, SIZE, 0.0, 0.5, 10)
    expected, _ = fast_rcnn_inference_single_image(boxes, scores, SIZE, 0.0, 0.5, 10)
    assert len(actual) == 10
    assert torch.equal(actual.pred_boxes.tensor, expected.pred_boxes.tensor)


def test_without_proposals_and_with_nan():
    found, _ = best_detections(torch.empty(0, 4), torch.empty(0, 51), SIZE, 0.0, 0.5, 10)
    assert len(found) == 0
    boxes, scores = random_boxes(100, 340.0), torch.rand(100, 51)
    scores[3] = float("nan")
    found, kept = best_detections(boxes, scores, SIZE, 0.0, 0.5, 10)
    assert len(found) == 10 and 3 not in kept
