"""The maps that people look at are the scores that detection gives."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Instances

from gridclip.modeling import DenseScores, optimize_for_inference

EVERYTHING = dict(
    test_score_thresh=0.0,
    test_nms_thresh=1.0,
    test_topk_locations=10**6,
    test_topk_candidates=10**6,
    max_detections_per_image=10**6,
)


def detections_of(levels, size):
    """Every pair of location and category as a detection; of equal scores, in the maps' order."""
    rows = [
        (level.combined.flatten(0, 1), level.boxes.flatten(0, 1)[:, None].expand(-1, 6, -1))
        for level in levels
    ]
    scores = torch.cat([s.flatten() for s, _ in rows])
    boxes = torch.cat([b.flatten(0, 1) for _, b in rows])
    classes = torch.arange(6).repeat(len(scores) // 6)
    order = scores.argsort(descending=True)
    return Instances(size, scores=scores[order], boxes=boxes[order], pred_classes=classes[order])


@pytest.mark.parametrize("dense_scores", [None, DenseScores(scale=30.0, weight=0.4)])
@torch.no_grad()
def test_combined_scores_and_boxes_are_those_of_all_detections(tiny_gridclip, batch, dense_scores):
    model = tiny_gridclip(dense_scores=dense_scores, **EVERYTHING).eval()
    torch.nn.init.normal_(model.head.grid_embedding.weight)
    maps = model.score_maps(batch())
    for levels, output, record in zip(maps, model(batch()), batch(), strict=True):
        found, height_width = output["instances"], tuple(record["image"].shape[1:])
        expected = detections_of(levels, height_width)
        assert len(found) == len(expected) > 500
        torch.testing.assert_close(found.scores, expected.scores)
        distinct = (expected.scores.diff().abs() > 1e-6).nonzero().flatten() + 1
        distinct = distinct[torch.isin(distinct + 1, distinct)]  # apart from both neighbours
        assert len(distinct) > 100
        height, width = height_width
        corners = torch.tensor([width, height, width, height])
        inside = expected.boxes[distinct].clamp(min=0).minimum(corners)
        torch.testing.assert_close(found.pred_boxes.tensor[distinct], inside)
        assert torch.equal(found.pred_classes[distinct], expected.pred_classes[distinct])


@torch.no_grad()
def test_head_and_dense_maps_are_what_is_combined(tiny_gridclip, batch):
    dense = DenseScores(scale=30.0, weight=0.4)
    model = tiny_gridclip(dense_scores=dense).eval()
    alone = tiny_gridclip(dense_scores=None).eval()
    features = model.backbone(model.preprocess_image(batch()).tensor)
    unit = F.normalize(model.backbone.bottom_up.dense_embeddings(features["res5"]), dim=1)
    p = torch.einsum("ndhw,cd->nchw", 30 * unit, model.classifier.text_embeddings).softmax(dim=1)
    for i, (levels, without) in enumerate(
        zip(model.score_maps(batch()), alone.score_maps(batch()), strict=True)
    ):
        assert [tuple(x.combined.shape[:2]) for x in levels][:2] == [(8, 12), (4, 6)]
        for level, plain in zip(levels, without, strict=True):
            assert plain.dense is None and torch.equal(plain.combined, plain.head)
            torch.testing.assert_close(level.head, plain.head)
            torch.testing.assert_close(level.combined, level.head**0.6 * level.dense**0.4)
        coarse = levels[2]  # of res5's own stride: the probabilities of its cells themselves
        torch.testing.assert_close(coarse.dense, p[i].permute(1, 2, 0))


def test_the_fast_copy_has_the_same_maps_in_inference_mode(tiny_gridclip, batch):
    model = tiny_gridclip(dense_scores=DenseScores(scale=30.0)).eval()
    with torch.no_grad():
        expected = model.score_maps(batch())
    fast = optimize_for_inference(model)
    for levels, others in zip(fast.score_maps(batch()), expected, strict=True):
        for level, other in zip(levels, others, strict=True):
            assert level.combined.is_inference()
            for a, b in zip(level, other, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_mixed_precision_reaches_the_maps(tiny_gridclip, batch):
    """As it reaches detection: a map of float32 would show other scores."""
    model = tiny_gridclip(dense_scores=DenseScores(scale=30.0), **EVERYTHING).eval()
    torch.nn.init.normal_(model.head.grid_embedding.weight)
    fast = optimize_for_inference(model, dtype=torch.bfloat16)
    (levels, _), (found, _) = fast.score_maps(batch()), fast(batch())
    best = max(float(level.combined.max()) for level in levels)
    assert best == pytest.approx(float(found["instances"].scores[0]), rel=1e-6)
    full = max(
        float(x.combined.max()) for x in optimize_for_inference(model).score_maps(batch())[0]
    )
    assert best != pytest.approx(full, rel=1e-6)
