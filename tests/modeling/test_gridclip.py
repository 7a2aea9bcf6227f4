import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage

from gridclip.modeling import BackboneImageAlignment, DenseScores, FCOSAssignment, GridCLIP
from gridclip.modeling.gridclip import sample_classes


def losses_of(model, inputs, iteration=0):
    with EventStorage(iteration):
        return model.train()(inputs)


def test_is_registered():
    assert META_ARCH_REGISTRY.get("GridCLIP") is GridCLIP


def test_losses_are_finite_and_train_everything_but_clips_pool(tiny_gridclip, batch):
    model = tiny_gridclip()
    losses = losses_of(model, batch())
    assert set(losses) == {
        "loss_grid_alignment",
        "loss_box_reg",
        "loss_box_distribution",
        "loss_quality",
        "loss_image_alignment",
    }
    sum(losses.values()).backward()
    without = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not without
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert not any(p.requires_grad for p in model.backbone.bottom_up.attnpool.parameters())


def test_mixed_precision_gives_the_same_losses(tiny_gridclip, batch):
    plain = losses_of(tiny_gridclip(), batch())
    model = tiny_gridclip()
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(model, batch())
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, plain[name], rtol=0.02, atol=0)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_windows_that_are_left_out_are_not_averaged(tiny_gridclip, batch):
    def loss(*left_out):
        inputs = batch()
        for i in left_out:
            inputs[i]["image_windows"] = torch.zeros(1, 4)
            inputs[i]["image_embeddings"].fill_(torch.nan)
        model = tiny_gridclip()
        term = losses_of(model, inputs)["loss_image_alignment"]
        term.backward()
        return term.item(), model.backbone.bottom_up.layer4[0].conv3.weight.grad

    both, first, second, none = loss(), loss(1), loss(0), loss(0, 1)
    assert (first[0] + second[0]) / 2 == pytest.approx(both[0]) and first[0] != second[0]
    torch.testing.assert_close((first[1] + second[1]) / 2, both[1])
    assert none[0] == 0 and not none[1].any()


def test_images_without_boxes(tiny_gridclip, batch):
    model = tiny_gridclip()
    losses = losses_of(model, batch(boxes=(), classes=()))
    sum(losses.values()).backward()
    assert losses["loss_box_reg"] == 0 and losses["loss_quality"] == 0
    assert losses["loss_grid_alignment"] > 0


def test_alignments_have_weights_and_switches(tiny_gridclip, batch):
    plain = losses_of(tiny_gridclip(), batch())
    assert "loss_image_alignment" not in losses_of(tiny_gridclip(image_alignment=None), batch())
    halved = losses_of(tiny_gridclip(grid_alignment_weight=0.5), batch())
    torch.testing.assert_close(halved["loss_grid_alignment"], plain["loss_grid_alignment"] / 2)
    model = tiny_gridclip()
    model.image_alignment.weight *= 3.0
    tripled = losses_of(model, batch())
    torch.testing.assert_close(tripled["loss_image_alignment"], 3 * plain["loss_image_alignment"])


def test_alignment_on_the_backbone_does_not_reach_the_head(tiny_gridclip, batch):
    model = tiny_gridclip()
    model.image_alignment = BackboneImageAlignment()
    losses_of(model, batch())["loss_image_alignment"].backward()
    assert all(p.grad is None for p in model.head.parameters())
    assert model.backbone.bottom_up.layer4[0].conv3.weight.grad.abs().sum() > 0


def test_missing_image_embeddings_are_an_error(tiny_gridclip, batch):
    inputs = batch()
    for x in inputs:
        del x["image_embeddings"]
    with pytest.raises(ValueError, match="image_alignment=null"):
        losses_of(tiny_gridclip(), inputs)


def test_categories_outside_the_loss_never_enter_it(tiny_gridclip, batch):
    """Not even a NaN in their text embeddings is noticed."""
    weights = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    model = tiny_gridclip(federated_weights=weights, num_sampled_classes=4)
    model.classifier.text_embeddings[[2, 5]] = float("nan")
    losses = losses_of(model, batch())
    assert all(torch.isfinite(loss) for loss in losses.values())
    model.classifier.text_embeddings[0] = float("nan")
    assert torch.isnan(losses_of(model, batch())["loss_grid_alignment"])


def test_sampled_negatives_depend_on_seed_and_iteration_alone(tiny_gridclip, batch, monkeypatch):
    model = tiny_gridclip(federated_weights=torch.ones(6), num_sampled_classes=2)
    seeds = []
    monkeypatch.setattr(
        "gridclip.modeling.gridclip.sample_classes",
        lambda weights, count, seed: seeds.append(seed) or sample_classes(weights, count, seed),
    )
    for iteration in (3, 4, 3):
        losses_of(model, batch(), iteration)
    assert seeds[0] == seeds[2] != seeds[1]


def test_wrong_number_of_federated_weights_is_an_error(tiny_gridclip):
    with pytest.raises(ValueError, match="federated_weights"):
        tiny_gridclip(federated_weights=torch.ones(5))


def test_data_without_negatives_count_as_annotated_throughout(tiny_gridclip, batch):
    federated, plain = batch(), batch()
    for x, y in zip(federated, plain, strict=True):
        x["negative_classes"] = torch.arange(6)
        del y["negative_classes"], y["not_exhaustive_classes"]
    expected = losses_of(tiny_gridclip(), federated)
    assert losses_of(tiny_gridclip(), plain) == expected


def test_normalizer_is_saved_and_averages(tiny_gridclip, batch):
    model = tiny_gridclip()
    losses_of(model, batch())
    first = model.loss_normalizer.clone()
    assert first > 0 and "loss_normalizer" in model.state_dict()
    losses_of(model, batch(boxes=(), classes=()))
    torch.testing.assert_close(model.loss_normalizer, 0.9 * first)


def fcos_predictions(model, inputs):
    """Images, levels, and the plain classifier's predictions as detectron2's FCOS takes them."""
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    levels = [features[name] for name in model.head_in_features]
    grid_features, sides, centerness = model.head(levels)
    deltas = [model.head.deltas(x) for x in sides]
    embeddings = [model.head.grid_embedding(x) for x in grid_features]

    def as_map(x, level):
        return x.transpose(1, 2).unflatten(2, level.shape[-2:]).clone()

    predictions = [
        [as_map(x, level) for x, level in zip(outputs, levels, strict=True)]
        for outputs in ([model.classifier(e) for e in embeddings], deltas, centerness)
    ]
    return images, levels, predictions


def test_losses_equal_detectron2s_fcos(tiny_gridclip, batch):
    """With every category known, the three detection losses are FCOS's on the same logits."""
    model = tiny_gridclip(image_alignment=None, assignment=FCOSAssignment(), box_loss_weight=1.0)
    inputs = batch()
    for x in inputs:
        x["negative_classes"] = torch.arange(6)
    ours = losses_of(model, inputs)

    images, levels, predictions = fcos_predictions(model, inputs)
    with EventStorage():
        model._ema_update = lambda name, value, initial: value  # ours starts from the first batch
        theirs = FCOS.forward_training(
            model, images, levels, predictions, [x["instances"] for x in inputs]
        )
    torch.testing.assert_close(ours["loss_grid_alignment"], theirs["loss_fcos_cls"])
    torch.testing.assert_close(ours["loss_box_reg"], theirs["loss_fcos_loc"])
    torch.testing.assert_close(ours["loss_quality"], theirs["loss_fcos_ctr"])


@torch.no_grad()
def test_inference_equals_detectron2s_fcos(tiny_gridclip, batch):
    model = tiny_gridclip(test_topk_locations=1000, dense_scores=None).eval()
    inputs = batch()
    ours = model(inputs)
    images, levels, predictions = fcos_predictions(model, inputs)
    theirs = FCOS.forward_inference(model, images, levels, predictions)
    for a, b, size in zip(ours, theirs, images.image_sizes, strict=True):
        a, b = a["instances"], detector_postprocess(b, *size)
        assert len(a) == len(b) > 50
        torch.testing.assert_close(a.scores, b.scores)
        assert torch.equal(a.pred_classes, b.pred_classes)


@torch.no_grad()
def test_dense_scores_are_those_of_clips_map_at_each_location(tiny_gridclip, batch):
    """Without threshold, NMS and cut, every pair of location and category is there."""
    model = tiny_gridclip(
        dense_scores=DenseScores(scale=30.0, weight=0.4),
        test_nms_thresh=1.0,
        max_detections_per_image=9999,
    ).eval()
    images = model.preprocess_image(batch())
    features = model.backbone(images.tensor)
    levels = [features[name] for name in model.head_in_features]
    grid_features, deltas, centerness = predictions = model.head(levels)
    found = model.forward_inference(
        images, levels, predictions, model._dense_probabilities(features)
    )

    dense = F.normalize(model.backbone.bottom_up.dense_embeddings(features["res5"]), dim=1)
    cosines = torch.einsum("ndhw,cd->nchw", dense, model.classifier.text_embeddings)
    centers = Boxes.cat(model.anchor_generator(levels)).get_centers()
    size = centers.new_tensor(images.tensor.shape[:1:-1])  # width, height
    grid = (2 * centers / size - 1).expand(2, 1, -1, 2)
    p = F.grid_sample(
        (30 * cosines).softmax(dim=1), grid, padding_mode="border", align_corners=False
    )[:, :, 0]
    logits = model.classifier(model.head.grid_embedding(torch.cat(grid_features, dim=1)))
    scores = (logits.sigmoid() * torch.cat(centerness, dim=1).sigmoid()).sqrt()
    expected = (scores**0.6 * p.transpose(1, 2) ** 0.4).flatten(1)
    for instances, scores in zip(found, expected, strict=True):
        assert len(instances) == len(scores) > 500
        torch.testing.assert_close(instances.scores, scores.sort(descending=True).values)


@torch.no_grad()
def test_a_vocabulary_of_one_name_has_no_dense_scores_to_lower_it(tiny_gridclip, batch, vocabulary):
    changes = {"num_classes": 1, "test_score_thresh": 0.0}
    scores = [
        tiny_gridclip(**changes, dense_scores=dense).eval()(batch())[0]["instances"].scores
        for dense in (None, DenseScores(scale=30.0, weight=0.4))
    ]
    torch.testing.assert_close(scores[1], scores[0] ** 0.6)


@torch.no_grad()
def test_results_are_in_the_original_image(tiny_gridclip, batch):
    model = tiny_gridclip(test_score_thresh=0.0).eval()
    inputs = [{**batch()[0], "height": 640, "width": 960}]
    instances = model(inputs)[0]["instances"]
    assert instances.image_size == (640, 960)
    assert instances.pred_boxes.tensor.max() > 96


@torch.no_grad()
def test_vocabulary_swaps_all_or_nothing(tiny_gridclip, batch, vocabulary):
    model = tiny_gridclip(test_score_thresh=0.0).eval()
    model.set_vocabulary(vocabulary(9))
    assert model.num_classes == 9 and len(model.classifier.names) == 9
    assert model(batch())[0]["instances"].pred_classes.max() > 5
    with pytest.raises(ValueError, match="width"):
        model.set_vocabulary(vocabulary(3, dim=8))
    assert model.num_classes == 9 and len(model.classifier.names) == 9


def test_mixed_precision_gives_about_the_same_losses(tiny_gridclip, batch):
    expected = losses_of(tiny_gridclip(), batch())
    model = tiny_gridclip()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = losses_of(model, batch())
    sum(actual.values()).backward()
    for name, loss in actual.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=0.1), name
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_smaller_anchors_give_a_level_smaller_objects(tiny_gridclip):
    whole, half = tiny_gridclip(), tiny_gridclip(anchor_scale=0.5, center_sampling_radius=3.0)
    shapes = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
    levels = [torch.zeros(1, 1, *shape) for shape in shapes]
    strides = whole.anchor_generator.strides
    anchors = half.anchor_generator(levels)
    for level, stride in zip(anchors, strides, strict=True):
        assert (level.tensor[:, 2:] - level.tensor[:, :2]).unique().tolist() == [stride / 2]
    boxes = Boxes(torch.tensor([[10.0, 10, 60, 70], [4, 4, 110, 120], [30, 40, 50, 52]]))
    matched = [m._match_anchors(boxes, m.anchor_generator(levels)) > 0 for m in (whole, half)]
    level_of = torch.cat([torch.full((h * w,), i) for i, (h, w) in enumerate(shapes)])
    found = [[level_of[row].unique().tolist() for row in part] for part in matched]
    assert found == [[[0], [0, 1], [0]], [[1], [2], [0]]]
