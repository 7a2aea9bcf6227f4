from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torchvision.ops import nms

from gridclip.vild import ViLD

CONFIG = Path(__file__).parents[2] / "projects/GridCLIP/configs/common/vild_r50.py"
DIM, NOVEL = 32, (2, 5)  # as in conftest.py

both = pytest.mark.parametrize("ensemble", [False, True], ids=["vild", "ensemble"])
LOSSES = {"loss_cls", "loss_box_reg", "loss_distillation", "loss_rpn_cls", "loss_rpn_loc"}


def losses_of(model, inputs):
    torch.manual_seed(0)  # proposals are sampled
    with EventStorage():
        return model.train()(inputs)


def check_gradients(model, losses):
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    without = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not without
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def proposals_and_features(model, inputs):
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    return images, features, model.proposal_generator(images, features, None)[0]


def labelled_proposals(inputs):
    """Three an image, the same each time."""
    generator = torch.Generator().manual_seed(0)
    proposals = []
    for x, classes in zip(inputs, ([0, 4, 6], [1, 6, 3]), strict=True):
        boxes = torch.rand(2, 3, 4, generator=generator) * 20 + torch.tensor([0.0, 0.0, 25.0, 25.0])
        found = Instances(x["instances"].image_size)
        found.proposal_boxes, found.gt_boxes = Boxes(boxes[0]), Boxes(boxes[1])
        found.gt_classes = torch.tensor(classes)
        proposals.append(found)
    return proposals


def box_losses(model, inputs, regions):
    features = model.backbone(model.preprocess_image(inputs).tensor)
    with EventStorage():
        return model.roi_heads._box_losses(features, labelled_proposals(inputs), regions)


def test_is_registered():
    assert META_ARCH_REGISTRY.get("ViLD") is ViLD


@both
@pytest.mark.parametrize("conv_norm", ["", "GN"])
def test_trains_all_parameters(tiny_vild, batch, ensemble, conv_norm):
    model = tiny_vild(ensemble, conv_norm)
    losses = losses_of(model, batch())
    assert set(losses) == LOSSES and losses["loss_distillation"] > 0
    check_gradients(model, losses)


@both
def test_images_without_regions(tiny_vild, batch, ensemble):
    model = tiny_vild(ensemble)
    losses = losses_of(model, batch(num_regions=(0, 0)))
    assert losses["loss_distillation"] == 0
    check_gradients(model, losses)


@both
def test_images_without_boxes(tiny_vild, batch, ensemble):
    model = tiny_vild(ensemble)
    losses = losses_of(model, batch(boxes=(), classes=()))
    assert losses["loss_box_reg"] == losses["loss_rpn_loc"] == 0 < losses["loss_cls"]
    check_gradients(model, losses)


@both
def test_no_proposals_at_all(tiny_vild, batch, ensemble):
    model = tiny_vild(ensemble)
    model.proposal_generator.post_nms_topk = {True: 0, False: 0}
    inputs = batch(boxes=(), classes=(), num_regions=(0, 0))
    losses = losses_of(model, inputs)
    assert losses["loss_cls"] == losses["loss_box_reg"] == 0
    check_gradients(model, losses)
    with torch.no_grad():
        assert [len(x["instances"]) for x in model.eval()(inputs)] == [0, 0]


def test_vild_text_asks_for_no_regions(tiny_vild, batch):
    inputs = batch()
    for x in inputs:
        del x["region_boxes"], x["region_embeddings"]
    model = tiny_vild(distillation_weight=0)
    losses = losses_of(model, inputs)
    assert set(losses) == LOSSES - {"loss_distillation"}
    check_gradients(model, losses)
    with pytest.raises(ValueError, match="no region_boxes, region_embeddings.*ViLD-text"):
        losses_of(tiny_vild(), inputs)


@both
def test_regions_change_no_other_loss(tiny_vild, batch, ensemble):
    model = tiny_vild(ensemble).train()
    inputs = batch()
    regions = model._regions(inputs)
    plain = box_losses(model, inputs, None)
    losses = box_losses(model, inputs, regions)
    for name, loss in plain.items():
        torch.testing.assert_close(losses[name], loss)


@both
def test_losses_equal_plain_ones(tiny_vild, batch, ensemble):
    """Against pooling, heads, a softmax over base and background, and an L1 loss one by one."""
    model = tiny_vild(ensemble).train()
    heads, inputs = model.roi_heads, batch(num_regions=(5, 2))
    losses = box_losses(model, inputs, model._regions(inputs))

    proposals = labelled_proposals(inputs)
    labels = torch.cat([p.gt_classes for p in proposals])
    features = model.backbone(model.preprocess_image(inputs).tensor)
    maps = [features[name] for name in ("p2", "p3", "p4", "p5")]
    pooled = heads.box_pooler(maps, [p.proposal_boxes for p in proposals])
    projected = heads.box_predictor.projection(heads.box_head(pooled))
    columns = [0, 1, 3, 4, 6]
    vectors = torch.stack([*model.classifier.text_embeddings, model.classifier.background])
    cosines = F.cosine_similarity(projected[:, None], vectors[None, columns], dim=-1)
    targets = torch.tensor([columns.index(i) for i in labels.tolist()])
    torch.testing.assert_close(losses["loss_cls"], F.cross_entropy(100 * cosines, targets))

    foreground = labels < 6
    deltas = heads.box_predictor.bbox_pred(heads.box_head(pooled))[foreground]
    pairs = [
        torch.cat([getattr(p, name).tensor for p in proposals])[foreground]
        for name in ("proposal_boxes", "gt_boxes")
    ]
    targets = heads.box_predictor.box2box_transform.get_deltas(*pairs)
    expected = F.l1_loss(deltas, targets, reduction="sum") / len(labels)
    torch.testing.assert_close(losses["loss_box_reg"], expected)

    head = heads.image_head if ensemble else heads.box_head
    project = heads.image_projection if ensemble else heads.box_predictor.projection
    student = project(head(heads.box_pooler(maps, [Boxes(x["region_boxes"]) for x in inputs])))
    teacher = torch.cat([x["region_embeddings"] for x in inputs])
    expected = 0.5 * DIM * F.l1_loss(F.normalize(student, dim=1), teacher)
    torch.testing.assert_close(losses["loss_distillation"], expected)


def test_ensemble_keeps_its_heads_apart(tiny_vild, batch):
    model = tiny_vild(ensemble=True)
    losses = losses_of(model, batch())
    losses["loss_distillation"].backward(retain_graph=True)
    heads = model.roi_heads
    assert all(p.grad is None or not p.grad.any() for p in heads.box_head.parameters())
    assert all(p.grad is None or not p.grad.any() for p in heads.box_predictor.parameters())
    assert heads.image_head.fc1.weight.grad.any() and heads.image_projection.weight.grad.any()
    model.zero_grad()
    losses["loss_cls"].backward()
    assert all(p.grad is None or not p.grad.any() for p in heads.image_head.parameters())
    assert heads.box_head.fc1.weight.grad.any()


def test_novel_text_embeddings_never_enter_training(tiny_vild, batch):
    model = tiny_vild()
    expected = losses_of(model, batch())
    model.classifier.text_embeddings[list(NOVEL)] = float("nan")
    actual = losses_of(model, batch())
    for name, loss in expected.items():
        torch.testing.assert_close(actual[name], loss, rtol=0, atol=0)
    check_gradients(model, actual)


def test_a_novel_annotation_is_an_error(tiny_vild, batch):
    with pytest.raises(ValueError, match="'thing 5' is annotated"):
        losses_of(tiny_vild(), batch(classes=(1, 5)))


@pytest.mark.parametrize(
    "name, value",
    [
        ("region_boxes", torch.zeros(5, 5)),
        ("region_boxes", torch.zeros(5, 4, dtype=torch.float64)),
        ("region_embeddings", torch.zeros(4, DIM)),
        ("region_embeddings", torch.zeros(5, DIM // 2)),
        ("region_embeddings", torch.zeros(5, DIM).half()),
    ],
)
def test_malformed_regions_are_errors(tiny_vild, batch, name, value):
    inputs = batch()
    inputs[0][name] = value
    with pytest.raises(ValueError, match=f"{name} must be"):
        losses_of(tiny_vild(), inputs)


def test_impossible_configurations_are_errors(tiny_vild):
    with pytest.raises(ValueError, match="image head is trained by distillation alone"):
        tiny_vild(ensemble=True, distillation_weight=0)
    model = tiny_vild()
    model.roi_heads.box_predictor.projection = torch.nn.Linear(64, 16)
    with pytest.raises(ValueError, match="embed_dim is 16, the classifier's 32"):
        ViLD(
            backbone=model.backbone,
            proposal_generator=model.proposal_generator,
            roi_heads=model.roi_heads,
            classifier=model.classifier,
            pixel_mean=[0.0] * 3,
            pixel_std=[1.0] * 3,
        )


def plain_detections(model, inputs):
    """A loop over images, categories and proposals; the boxes and scores of each category."""
    heads, classifier = model.roi_heads, model.classifier
    images, features, proposals = proposals_and_features(model, inputs)
    maps = [features[name] for name in ("p2", "p3", "p4", "p5")]
    vectors = torch.stack([*classifier.text_embeddings, classifier.background])
    for i, (found, size) in enumerate(zip(proposals, images.image_sizes, strict=True)):
        boxes = [p.proposal_boxes if p is found else Boxes(torch.empty(0, 4)) for p in proposals]
        pooled = heads.box_pooler(maps, boxes)
        hidden = heads.box_head(pooled)
        text = heads.box_predictor.projection(hidden)
        text = (100 * F.cosine_similarity(text[:, None], vectors[None], dim=-1)).softmax(dim=1)
        if heads.image_head is not None:
            image = heads.image_projection(heads.image_head(pooled))
            image = 100 * F.cosine_similarity(image[:, None], vectors[None, :-1], dim=-1)
            image = image.softmax(dim=1)
        deltas = heads.box_predictor.bbox_pred(hidden)
        refined = heads.box_predictor.box2box_transform.apply_deltas(
            deltas, found.proposal_boxes.tensor
        )
        refined = Boxes(refined)
        refined.clip(size)
        kept = []
        for c in range(classifier.num_classes):
            score = text[:, c]
            if heads.image_head is not None:
                a, b = (1 / 3, 2 / 3) if c in NOVEL else (2 / 3, 1 / 3)
                score = score**a * image[:, c] ** b
            keep = nms(refined.tensor, score, 0.5)
            keep = keep[score[keep] > 0]
            kept += [(score[k].item(), c, refined.tensor[k]) for k in keep]
        kept.sort(key=lambda x: -x[0])
        yield i, size, kept[:300]


@both
@torch.no_grad()
def test_inference_equals_a_plain_loop(tiny_vild, batch, ensemble):
    model, inputs = tiny_vild(ensemble).eval(), batch()
    actual = model(inputs)
    for i, size, expected in plain_detections(model, inputs):
        boxes = Boxes(torch.stack([box for *_, box in expected]))
        reference = Instances(
            size,
            pred_boxes=boxes,
            scores=torch.tensor([score for score, *_ in expected]),
            pred_classes=torch.tensor([c for _, c, _ in expected]),
        )
        reference = detector_postprocess(reference, *size)
        instances = actual[i]["instances"]
        assert 10 < len(instances) <= 300
        torch.testing.assert_close(instances.scores, reference.scores)
        assert torch.equal(instances.pred_classes, reference.pred_classes)
        torch.testing.assert_close(instances.pred_boxes.tensor, reference.pred_boxes.tensor)
        assert set(NOVEL) <= set(instances.pred_classes.tolist())


@both
@torch.no_grad()
def test_300_detections_in_the_original_image(tiny_vild, batch, vocabulary, ensemble):
    model = tiny_vild(ensemble).eval()
    model.set_vocabulary(vocabulary(40))
    instances = model([{**batch()[0], "height": 640, "width": 960}])[0]["instances"]
    assert instances.image_size == (640, 960) and len(instances) == 300
    boxes = instances.pred_boxes.tensor
    assert boxes.max() > 96 and (boxes <= torch.tensor([960.0, 640.0, 960.0, 640.0])).all()
    assert (instances.scores > 0).all() and (instances.scores <= 1).all()


@both
@torch.no_grad()
def test_an_image_without_proposals_beside_one_with(tiny_vild, batch, ensemble):
    model = tiny_vild(ensemble).eval()
    images, features, proposals = proposals_and_features(model, batch())
    found, _ = model.roi_heads(images, features, [proposals[0][:0], proposals[1]])
    assert len(found[0]) == 0 < len(found[1])


@torch.no_grad()
def test_vocabulary_swaps_all_or_nothing(tiny_vild, batch, vocabulary):
    model = tiny_vild(ensemble=True).eval()
    model.set_vocabulary(vocabulary(9))
    assert_count(model, 9)
    assert model(batch())[0]["instances"].pred_classes.max() > 5
    with pytest.raises(ValueError, match="width"):
        model.set_vocabulary(vocabulary(3, dim=8))
    assert_count(model, 9)
    model.set_vocabulary(vocabulary(3))  # things 0 and 1 were base
    assert_count(model, 3)
    assert model.classifier.is_novel.tolist() == [False, False, True]


def assert_count(model, expected):
    heads, classifier = model.roi_heads, model.classifier
    assert model.num_classes == heads.num_classes == heads.box_predictor.num_classes == expected
    assert len(classifier.names) == len(classifier.text_embeddings) == expected
    assert len(classifier.is_novel) == expected


@torch.no_grad()
def test_weights_load_under_any_vocabulary(tiny_vild, batch, vocabulary):
    trained, other = tiny_vild(ensemble=True).eval(), tiny_vild(ensemble=True).eval()
    for p in trained.parameters():
        p.add_(0.01 * torch.randn_like(p))
    keys = trained.state_dict().keys()
    assert not any("text_embeddings" in key or "is_novel" in key for key in keys)
    assert "roi_heads.box_predictor.classifier.background" in keys
    other.set_vocabulary(vocabulary(9))
    other.load_state_dict(trained.state_dict())
    trained.set_vocabulary(vocabulary(9))
    expected, actual = (m(batch())[0]["instances"] for m in (trained, other))
    torch.testing.assert_close(actual.scores, expected.scores)


@both
def test_mixed_precision_gives_about_the_same_losses(tiny_vild, batch, ensemble):
    model, inputs = tiny_vild(ensemble).train(), batch()
    regions = model._regions(inputs)
    expected = box_losses(model, inputs, regions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = box_losses(model, inputs, regions)
        check_gradients(model, losses_of(model, inputs))
    for name, loss in actual.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=0.1), name


def test_production_config_is_vilds_and_serialises(tmp_path):
    cfg = LazyConfig.load(str(CONFIG))
    cfg.clip = {"text_embeddings": "embeddings.safetensors"}  # the data's config has it
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert not (tmp_path / "config.yaml.pkl").exists()
    model = LazyConfig.load(str(tmp_path / "config.yaml")).model
    assert model._target_ == "gridclip.vild.ViLD" and model.roi_heads.image_head is None
    predictor = model.roi_heads.box_predictor
    assert model.proposal_generator.post_nms_topk[1] == 1000
    assert predictor.test_nms_thresh == 0.5 and predictor.test_topk_per_image == 300
    assert predictor.test_score_thresh == 0.0 and predictor.embed_dim == 1024
    head = instantiate(model.roi_heads.box_head)
    assert head.fc1.weight.shape == (1024, 256 * 7 * 7)
    assert head.output_shape.channels == predictor.input_shape.channels
