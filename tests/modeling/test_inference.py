import copy
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.utils.events import EventStorage
from torch import nn
from torch._dynamo.utils import counters
from torchvision.models import resnet18

from box_sizes import spread_boxes
from gridclip.modeling import optimize_for_inference

VILD = Path(__file__).parents[2] / "projects/GridCLIP/configs/common/vild_r50.py"
NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


@pytest.fixture
def gridclip(tiny_gridclip):
    """As a training may leave it, but for scores and boxes that vary."""
    model = tiny_gridclip(test_score_thresh=0.0, test_topk_candidates=200)
    nn.init.normal_(model.head.grid_embedding.weight)
    return train_a_little(model)


@pytest.fixture
def fcos(gridclip):
    """detectron2's FCOS on CLIP's backbone."""
    shapes = gridclip.backbone.output_shape()
    names = gridclip.head_in_features
    model = FCOS(
        backbone=gridclip.backbone,
        head=FCOSHead(
            input_shape=[shapes[name] for name in names],
            conv_dims=[64],
            num_classes=6,
            norm="FrozenBN",
        ),
        head_in_features=names,
        num_classes=6,
        test_score_thresh=0.0,
        pixel_mean=[120.0] * 3,
        pixel_std=[60.0] * 3,
    )
    return train_a_little(model)


@pytest.fixture
def vild(vocabulary):
    cfg = LazyConfig.load(str(VILD)).model
    cfg.backbone.bottom_up.update(
        layers=(1, 1, 1, 1), width=8, embed_dim=32, input_resolution=64, freeze_norm=False
    )
    cfg.backbone.update(out_channels=32, norm="BN")
    cfg.roi_heads.box_head.update(conv_dims=[32], fc_dims=[32], conv_norm="BN")
    cfg.roi_heads.box_predictor.input_shape.channels = 32
    cfg.classifier.update(text_embeddings=vocabulary(6), embed_dim=32, novel_classes=[4])
    return train_a_little(instantiate(cfg))


def train_a_little(model):
    """Batch norms get statistics, boxes a size."""
    for module in model.modules():
        if isinstance(module, NORMS):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    if isinstance(model, FCOS):
        spread_boxes(model.head)
    return model


def images(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [
        {"image": torch.randint(0, 256, (3, *size), generator=generator).byte()} for size in sizes
    ]


@torch.no_grad()
def detect(model, inputs):
    model.eval()
    return [x["instances"] for x in model(inputs)]


def assert_same_detections(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert len(a) == len(b) > 50
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-6)
        # Neighbours in rank may change places where their scores are as good as equal.
        clear = b.scores.diff(prepend=b.scores.new_tensor([2.0])).abs() > 1e-5
        clear &= b.scores.diff(append=b.scores.new_tensor([-1.0])).abs() > 1e-5
        assert clear.sum() > 20
        assert torch.equal(a.pred_classes[clear], b.pred_classes[clear])
        boxes = a.pred_boxes.tensor[clear], b.pred_boxes.tensor[clear]
        torch.testing.assert_close(*boxes, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("name", ["gridclip", "fcos", "vild"])
def test_finds_the_same_without_batch_norms(request, name):
    model = request.getfixturevalue(name)
    inputs = images((64, 96), (50, 70))
    fast = optimize_for_inference(model)
    assert type(fast) is type(model)
    assert any(isinstance(x, NORMS) for x in model.modules())
    assert not any(isinstance(x, NORMS) for x in fast.modules())
    assert_same_detections(detect(fast, inputs), detect(model, inputs))


def test_maps_of_the_backbone_are_the_same(gridclip):
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = gridclip.eval().backbone(x)
        actual = optimize_for_inference(gridclip).backbone(x)
    for name, feature in expected.items():
        torch.testing.assert_close(
            actual[name], feature, rtol=1e-4, atol=1e-5 * feature.abs().max().item()
        )
    assert actual["p3"].is_contiguous(memory_format=torch.channels_last)


def test_model_stays_as_it_is_and_trains_on(gridclip, batch):
    state = copy.deepcopy(gridclip.state_dict())
    fast = optimize_for_inference(gridclip.train())
    detect(fast, images((64, 64)))
    assert gridclip.training and not fast.training
    assert all(torch.equal(value, state[key]) for key, value in gridclip.state_dict().items())
    assert not any(p.requires_grad for p in fast.parameters())
    with EventStorage():
        sum(gridclip(batch()).values()).backward()
    assert gridclip.head.grid_embedding.weight.grad.abs().sum() > 0


def test_results_are_made_in_inference_mode(gridclip):
    assert detect(optimize_for_inference(gridclip), images((64, 64)))[0].scores.is_inference()


def test_optimizing_again_starts_from_the_class(gridclip):
    inputs = images((64, 96))
    again = optimize_for_inference(optimize_for_inference(gridclip))
    assert again.forward.__self__ is again
    assert_same_detections(detect(again, inputs), detect(gridclip, inputs))


def test_classifier_is_folded_once_a_vocabulary(gridclip, vocabulary, monkeypatch):
    fast = optimize_for_inference(gridclip)
    fold, folded = fast.classifier.fold, []
    monkeypatch.setattr(fast.classifier, "fold", lambda *x: folded.append(x) or fold(*x))
    for _ in range(2):
        detect(fast, images((64, 96)))
    assert len(folded) == 1
    fast.set_vocabulary(vocabulary(9))
    gridclip.set_vocabulary(vocabulary(9))
    assert_same_detections(detect(fast, images((64, 96))), detect(gridclip, images((64, 96))))
    assert len(folded) == 2


def test_a_model_that_may_be_trained_is_folded_every_time(gridclip):
    before = detect(gridclip, images((64, 96)))[0].scores
    gridclip.classifier.bias.data += 1
    assert not torch.equal(detect(gridclip, images((64, 96)))[0].scores, before)


def test_networks_of_others(gridclip):
    """torchvision's blocks; and convolutions whose output is not the batch norm's input stay."""
    network = train_a_little(resnet18()).eval()
    x = torch.randn(1, 3, 64, 64)
    fast = optimize_for_inference(network)
    assert not any(isinstance(module, NORMS) for module in fast.modules())
    torch.testing.assert_close(fast(x), network(x).detach(), rtol=1e-4, atol=1e-4)

    norm, conv, other = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(3)
    apart = train_a_little(nn.Sequential(norm, nn.ReLU(), other, conv, nn.ReLU())).eval()
    torch.testing.assert_close(optimize_for_inference(apart)(x), apart(x).detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gridclip", "fcos", "vild"])
def test_mixed_precision_is_near(request, name, dtype):
    model = request.getfixturevalue(name)
    inputs = images((64, 96))
    seen = []
    fast = optimize_for_inference(model, dtype=dtype)
    fast.backbone.register_forward_hook(lambda _, __, maps: seen.append(maps["p3"].dtype))
    found, expected = detect(fast, inputs)[0], detect(model, inputs)[0]
    assert seen == [dtype]
    assert len(found) == pytest.approx(len(expected), rel=0.2) and len(found) > 50
    torch.testing.assert_close(
        found.scores[:50].float(), expected.scores[:50], rtol=0.05, atol=0.02
    )


def test_logits_keep_their_precision(gridclip):
    """In mixed precision too, the classifier works in float32."""
    fast = optimize_for_inference(gridclip, dtype=torch.bfloat16)
    assert detect(fast, images((64, 96)))[0].scores.dtype == torch.float32
    weight = F.linear(fast.classifier.text_embeddings, fast.head.grid_embedding.weight.T)
    weight = fast.classifier.log_scale.exp() * weight
    torch.testing.assert_close(fast._folded[1].weight, weight)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_for_any_size_of_image(gridclip):
    fast = optimize_for_inference(gridclip, compile=True)
    graphs = []
    # At 256 x 384 two overlapping boxes of a category have scores that rounding alone tells apart.
    for size in ((256, 320), (384, 256), (320, 512)):
        assert_same_detections(detect(fast, images(size)), detect(gridclip, images(size)))
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] >= 3  # trunk and two towers
    assert graphs[1] == graphs[2]
