"""CLIP's own scores of proposals, against loops, torchvision and OpenAI's encoder."""

import math

import pytest
import torch
import torch.nn.functional as F
from clip.model import ModifiedResNet
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from gridclip.modeling import CLIPResNet, TextClassifier, optimize_for_inference
from gridclip.text import TextEmbeddings
from gridclip.vild import PooledRegionScores, RegionScores, ViLD

NOVEL = (2, 5)  # as in conftest.py
SIZES = dict(layers=(1, 1, 1, 1), width=8, input_resolution=64)

both = pytest.mark.parametrize("ensemble", [False, True], ids=["vild", "ensemble"])
kinds = pytest.mark.parametrize("kind", [RegionScores, PooledRegionScores])


def boxes_at(*corners):
    return Boxes(torch.tensor(corners, dtype=torch.float32).reshape(-1, 4))


@pytest.fixture
def trunk():
    torch.manual_seed(0)
    return CLIPResNet(**SIZES, embed_dim=32).eval().requires_grad_(False)


@pytest.fixture
def classifier(vocabulary):
    return TextClassifier(vocabulary(5), embed_dim=32)


@pytest.fixture
def scores_before_the_cut(monkeypatch):
    """Runs a model on inputs: what its box predictor is given, (R, C + 1)."""

    def run(model, inputs):
        seen = []
        with monkeypatch.context() as patch, torch.no_grad():
            predictor = model.roi_heads.box_predictor
            inference = predictor.inference
            patch.setattr(predictor, "inference", lambda x, y: seen.append(x[0]) or inference(x, y))
            model.eval()(inputs)
        return seen[0]

    return run


def plain_mean(embeddings, box):
    """The mean over a grid of about one point a cell, each interpolated between four cells."""
    x0, y0, x1, y1 = (side / 32 for side in box.tolist())
    rows, columns = math.ceil(y1 - y0), math.ceil(x1 - x0)
    points = [
        [x0 + (j + 0.5) * (x1 - x0) / columns, y0 + (i + 0.5) * (y1 - y0) / rows]
        for i in range(rows)
        for j in range(columns)
    ]
    size = torch.tensor([embeddings.shape[2], embeddings.shape[1]])
    grid = (2 * torch.tensor(points) / size - 1)[None, None]
    options = dict(padding_mode="border", align_corners=False)
    return F.grid_sample(embeddings[None], grid, **options)[0, :, 0].mean(dim=1)


def test_p_is_of_the_mean_of_the_dense_embeddings_in_the_box(trunk, classifier):
    res5, text = torch.randn(2, 256, 3, 4), classifier.text_embeddings
    boxes = [
        boxes_at([0, 0, 128, 96], [10, 20, 90, 30], [50, 50, 51, 51]),
        boxes_at([40, 3, 128, 77]),
    ]
    actual = RegionScores(scale=7.0).region_probabilities(trunk, res5, boxes, classifier)
    pool, expected = trunk.attnpool, []
    for picture, found in zip(res5, boxes, strict=True):
        cells = torch.stack([pool.c_proj(pool.v_proj(cell)) for cell in picture.flatten(1).T])
        embeddings = F.normalize(cells, dim=1).T.reshape(32, 3, 4)
        for box in found.tensor:
            cosines = F.cosine_similarity(plain_mean(embeddings, box)[None], text)
            expected.append((7 * cosines).softmax(0))
    torch.testing.assert_close(actual, torch.stack(expected))


def test_a_small_box_in_a_cells_middle_has_that_cells_p(trunk, classifier):
    """There GridCLIP's dense map and the boxes say the same."""
    res5, dense = torch.randn(1, 256, 2, 2), RegionScores(scale=7.0)
    p = dense.region_probabilities(trunk, res5, [boxes_at([44, 12, 52, 20])], classifier)
    expected = dense.probabilities(trunk.dense_embeddings(res5), classifier.text_embeddings)
    torch.testing.assert_close(p[0], expected[0, 0, 1])


@kinds
def test_training_names_that_are_left_out_still_compete(trunk, classifier, vocabulary, kind):
    res5, boxes = torch.randn(1, 256, 2, 2), [boxes_at([3, 5, 60, 50])]
    arguments = trunk, res5, boxes, classifier
    p = kind(scale=7.0).region_probabilities(*arguments)
    torch.testing.assert_close(p.sum(), torch.tensor(1.0))
    all_names = vocabulary(5)
    classifier.set_vocabulary(
        TextEmbeddings(all_names.names[3:4], all_names.embeddings[3:4], (), "RN50", "")
    )
    torch.testing.assert_close(kind(scale=7.0).region_probabilities(*arguments), p[:, 3:4])


def test_fvlms_p_of_the_whole_picture_is_clips(classifier):
    torch.manual_seed(0)
    clip = ModifiedResNet(SIZES["layers"], 32, 4, 64, 8).eval().requires_grad_(False)
    trunk = CLIPResNet(**SIZES, embed_dim=32, freeze_at=5)
    trunk.load_state_dict(clip.state_dict(), strict=False)
    pictures, whole = torch.randn(2, 3, 64, 64), [boxes_at([0, 0, 64, 64])] * 2
    res5 = trunk(pictures)["res5"]
    p = PooledRegionScores(scale=100.0).region_probabilities(trunk, res5, whole, classifier)
    embeddings = F.normalize(clip(pictures), dim=1)
    expected = (100 * embeddings @ classifier.text_embeddings.T).softmax(dim=1)
    torch.testing.assert_close(p, expected, rtol=1e-3, atol=1e-5)


@kinds
def test_without_boxes(trunk, classifier, kind):
    res5, boxes = torch.randn(2, 256, 2, 3), [boxes_at(), boxes_at()]
    p = kind(scale=7.0).region_probabilities(trunk, res5, boxes, classifier)
    assert p.shape == (0, 5)


@kinds
@both
def test_all_pairs_are_combined_before_the_cut(
    tiny_vild, batch, scores_before_the_cut, ensemble, kind
):
    """Two pictures of different sizes."""
    model, inputs = tiny_vild(ensemble), batch()
    plain = scores_before_the_cut(model, inputs)
    model.dense_scores = dense = kind(scale=7.0, weight=0.2, novel_weight=0.6)
    actual = scores_before_the_cut(model, inputs)
    with torch.no_grad():
        images = model.preprocess_image(inputs)
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features, None)
        p = dense.region_probabilities(
            model.backbone.bottom_up,
            features["res5"],
            [x.proposal_boxes for x in proposals],
            model.classifier,
        )
    assert len(p) == len(plain) > 50
    for row, head, clip in zip(actual, plain, p, strict=True):
        weights = [0.6 if c in NOVEL else 0.2 for c in range(6)]
        expected = [head[c] ** (1 - w) * clip[c] ** w for c, w in enumerate(weights)]
        expected = torch.stack([*expected, head[6]])  # the last of the background
        if kind is PooledRegionScores:
            expected = expected / expected.sum()
        torch.testing.assert_close(row, expected)


@both
@torch.no_grad()
def test_weight_zero_changes_nothing(tiny_vild, batch, ensemble):
    model, inputs = tiny_vild(ensemble).eval(), batch()
    plain = [x["instances"] for x in model(inputs)]
    model.dense_scores = RegionScores(scale=7.0, weight=0.0)
    for x, expected in zip(model(inputs), plain, strict=True):
        instances = x["instances"]
        assert torch.equal(instances.scores, expected.scores)
        assert torch.equal(instances.pred_classes, expected.pred_classes)
        assert torch.equal(instances.pred_boxes.tensor, expected.pred_boxes.tensor)


def test_fvlms_scores_sum_to_one():
    fvlm = PooledRegionScores(scale=100.0, weight=0.5)
    scores = torch.tensor([[0.5, 0.1, 0.4]])
    actual = fvlm.rescore(scores, torch.tensor([[0.2, 0.8]]), torch.tensor([False, True]))
    both = torch.tensor([[0.1**0.5, 0.08**0.5, 0.4]])  # 0.5 * 0.2 and 0.1 * 0.8
    torch.testing.assert_close(actual, both / (0.1**0.5 + 0.08**0.5 + 0.4))


@torch.no_grad()
def test_what_clip_is_sure_of_is_found_however_low_the_heads_score(tiny_vild, monkeypatch):
    model = tiny_vild().eval()
    heads = model.roi_heads
    heads.box_predictor.test_topk_per_image = 1
    logits, deltas = torch.tensor([[0.0, 0, -20, 0, 0, 0, 5]]).repeat(3, 1), torch.zeros(3, 4)
    monkeypatch.setattr(heads.box_predictor, "forward", lambda x: (logits, deltas))
    p = torch.full((3, 6), 1e-30)
    p[1, 2] = 1.0  # category 2 is novel
    monkeypatch.setattr(RegionScores, "region_probabilities", lambda *x: p)
    boxes = boxes_at([0, 0, 20, 20], [30, 0, 50, 20], [0, 30, 20, 50])
    proposals = [Instances((64, 64), proposal_boxes=boxes)]
    monkeypatch.setattr(model.proposal_generator, "forward", lambda *x: (proposals, {}))
    inputs = [{"image": torch.zeros(3, 64, 64)}]
    assert model(inputs)[0]["instances"].pred_classes.item() != 2
    model.dense_scores = RegionScores(scale=1.0, weight=0.15, novel_weight=0.65)
    found = model(inputs)[0]["instances"]
    assert found.pred_classes.item() == 2
    torch.testing.assert_close(found.pred_boxes.tensor, boxes.tensor[1:2])
    head = logits[1].softmax(0)[2].item()
    assert found.scores.item() == pytest.approx(head**0.35, rel=1e-5)


@kinds
@torch.no_grad()
def test_no_proposals_at_all(tiny_vild, batch, kind):
    model = tiny_vild().eval()
    model.dense_scores = kind(scale=7.0)
    model.proposal_generator.post_nms_topk = {True: 0, False: 0}
    assert [len(x["instances"]) for x in model(batch())] == [0, 0]


@kinds
@torch.no_grad()
def test_vocabularies_of_any_size(tiny_vild, batch, vocabulary, kind):
    model = tiny_vild().eval()
    model.dense_scores = kind(scale=7.0, novel_weight=0.6)
    for count in (1, 2, 40):
        model.set_vocabulary(vocabulary(count))
        instances = model(batch())[0]["instances"]
        assert set(instances.pred_classes.tolist()) <= set(range(count))
        assert len(instances) > 10 and torch.isfinite(instances.scores).all()


@kinds
@both
@torch.no_grad()
def test_optimized_for_inference_finds_the_same(tiny_vild, batch, ensemble, kind):
    model, inputs = tiny_vild(ensemble).eval(), batch()
    model.dense_scores = kind(scale=7.0, novel_weight=0.6)
    fast = optimize_for_inference(model)
    assert fast.backbone.bottom_up._dense_projection is not None
    for x, y in zip(fast(inputs), model(inputs), strict=True):
        a, b = x["instances"].scores, y["instances"].scores
        assert len(a) == len(b) > 50
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@kinds
@torch.no_grad()
def test_mixed_precision_gives_about_the_same(tiny_vild, batch, kind):
    model, inputs = tiny_vild().eval(), batch()
    model.dense_scores = kind(scale=7.0, novel_weight=0.6)
    found = optimize_for_inference(model, dtype=torch.bfloat16)(inputs)[0]["instances"]
    expected = model(inputs)[0]["instances"]
    torch.testing.assert_close(found.scores[:50], expected.scores[:50], rtol=0.05, atol=0.02)


def test_a_frozen_trunk_stays_clips(tiny_vild, batch):
    clip = ModifiedResNet(SIZES["layers"], 32, 4, 64, 8).eval().requires_grad_(False)
    model = tiny_vild(freeze_at=5, distillation_weight=0)
    trunk = model.backbone.bottom_up
    trunk.load_state_dict(clip.state_dict(), strict=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with EventStorage():
        sum(model.train()(batch()).values()).backward()
    optimizer.step()
    changed = {k for k, value in model.state_dict().items() if not torch.equal(value, before[k])}
    assert {"backbone.fpn_lateral2.weight", "roi_heads.box_predictor.projection.weight"} <= changed
    assert not any(name.startswith("backbone.bottom_up") for name in changed)

    model.eval()
    picture = torch.randn(1, 3, 64, 96)
    x = clip.relu3(clip.bn3(clip.conv3(clip.relu2(clip.bn2(clip.conv2(
        clip.relu1(clip.bn1(clip.conv1(picture)))))))))  # fmt: skip
    res5 = clip.layer4(clip.layer3(clip.layer2(clip.layer1(clip.avgpool(x)))))
    cells = clip.attnpool.c_proj(clip.attnpool.v_proj(res5.permute(0, 2, 3, 1)))
    dense = trunk.dense_embeddings(model.backbone(picture)["res5"])
    torch.testing.assert_close(dense, cells.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


def test_another_backbone_is_refused(tiny_vild):
    model = tiny_vild()
    with pytest.raises(ValueError, match="CLIP's last map, but the backbone is a CLIPResNet: take"):
        ViLD(
            backbone=model.backbone.bottom_up,
            proposal_generator=model.proposal_generator,
            roi_heads=model.roi_heads,
            classifier=model.classifier,
            dense_scores=RegionScores(scale=7.0),
            pixel_mean=[0.0] * 3,
            pixel_std=[1.0] * 3,
        )
