"""The backbone, against the image encoders of clip and open_clip on the same weights."""

import copy

import cv2
import open_clip.modified_resnet as open_clip_resnet
import pytest
import torch
from clip.model import AttentionPool2d, ModifiedResNet
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import FPN
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import benchmark.random_clip  # noqa: F401  random-clip://
from gridclip.clip_models import CLIP_RESNETS
from gridclip.clip_weights import load_clip, read_clip_checkpoint, resnet_state_dict
from gridclip.modeling import CLIPFPN, CLIPResNet

# Two of the stages have a block after the one that changes the stride.
SIZES = dict(layers=(1, 2, 1, 2), width=16, embed_dim=48, input_resolution=64)
RES5_CHANNELS = 32 * SIZES["width"]
ATOL = 1e-4


def randomise_batch_norms(resnet):
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.1, 0.5)


@pytest.fixture(scope="module")
def reference():
    """clip's encoder, its batch norms away from the identity that they start as."""
    torch.manual_seed(0)
    resnet = ModifiedResNet(
        layers=SIZES["layers"],
        output_dim=SIZES["embed_dim"],
        heads=SIZES["width"] * 32 // 64,
        input_resolution=SIZES["input_resolution"],
        width=SIZES["width"],
    )
    randomise_batch_norms(resnet)
    return resnet.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def open_clip_reference(reference):
    resnet = open_clip_resnet.ModifiedResNet(
        layers=SIZES["layers"],
        output_dim=SIZES["embed_dim"],
        heads=SIZES["width"] * 32 // 64,
        image_size=SIZES["input_resolution"],
        width=SIZES["width"],
    )
    resnet.load_state_dict(reference.state_dict())
    return resnet.requires_grad_(False).eval()


def build(reference, **kwargs):
    model = CLIPResNet(**SIZES, **kwargs)
    model.load_state_dict(reference.state_dict())
    return model.eval()


@pytest.fixture
def model(reference):
    return build(reference)


def assert_close(ours, theirs):
    assert ours.dtype == theirs.dtype == torch.float32
    assert theirs.std() > 0.1  # large enough for the tolerance to mean something
    torch.testing.assert_close(ours, theirs, rtol=0, atol=ATOL)


@torch.no_grad()
def stages_of_clip(resnet, x):
    """Outputs of clip's layer1 to layer4, caught by forward hooks."""
    resnet = copy.deepcopy(resnet)
    resnet.attnpool = nn.Identity()  # it takes the native size only
    outputs = []
    for layer in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        layer.register_forward_hook(lambda _, __, output: outputs.append(output))
    resnet(x)
    return outputs


# -- parity with clip and open_clip


@pytest.mark.parametrize("freeze_norm", [True, False])
def test_pooled_embedding_at_the_native_size(freeze_norm, reference, open_clip_reference):
    model = build(reference, freeze_norm=freeze_norm)
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        embedding = model.image_embedding(model(x)["res5"])
    assert embedding.shape == (3, 48)
    assert_close(embedding, reference(x))
    assert_close(embedding, open_clip_reference(x))


@pytest.mark.parametrize("size", [(333, 500), (64, 64), (95, 33)])
def test_stages_at_any_size(size, model, reference, open_clip_reference):
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        features = model(x)
    theirs = open_clip_reference.forward_intermediates(x, intermediates_only=True)
    theirs = theirs["image_intermediates"][1:]  # without the stem
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for ours, of_clip, of_open_clip in zip(
        features.values(), stages_of_clip(reference, x), theirs, strict=True
    ):
        assert_close(ours, of_clip)
        assert_close(ours, of_open_clip)


@pytest.mark.slow
def test_rn50_at_its_true_size():
    source = "random-clip://RN50"
    reference, _ = load_clip(source)
    model = CLIPResNet(**CLIP_RESNETS["RN50"]).eval()
    model.load_state_dict(resnet_state_dict(read_clip_checkpoint(source)), strict=False)
    other = open_clip_resnet.ModifiedResNet((3, 4, 6, 3), output_dim=1024, heads=32)
    other.load_state_dict(reference.visual.state_dict())
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        features = model(x)
        embedding = model.image_embedding(features["res5"])
        assert_close(embedding, reference.encode_image(x))
        assert_close(embedding, other.eval()(x))
    assert {name: tuple(f.shape[1:]) for name, f in features.items()} == {
        "res2": (256, 56, 56),
        "res3": (512, 28, 28),
        "res4": (1024, 14, 14),
        "res5": (2048, 7, 7),
    }
    x = torch.randn(1, 3, 333, 500)
    with torch.no_grad():
        features = model(x)
    for ours, theirs in zip(features.values(), stages_of_clip(reference.visual, x), strict=True):
        assert_close(ours, theirs)


# -- outputs


def test_output_shape_is_what_comes_out(model):
    with torch.no_grad():
        features = model(torch.zeros(1, 3, 128, 96))
    shapes = model.output_shape()
    assert features.keys() == shapes.keys()
    for name, feature in features.items():
        shape = shapes[name]
        assert feature.shape == (1, shape.channels, 128 // shape.stride, 96 // shape.stride)
    assert {name: shape.stride for name, shape in shapes.items()} == {
        "res2": 4,
        "res3": 8,
        "res4": 16,
        "res5": 32,
    }
    assert model.size_divisibility == 32


def test_out_features_are_those_asked_for():
    model = CLIPResNet(**SIZES, out_features=("res3", "res5"))
    assert list(model(torch.zeros(1, 3, 64, 64))) == ["res3", "res5"]
    assert list(model.output_shape()) == ["res3", "res5"]


def test_no_images(model):
    features = model(torch.zeros(0, 3, 64, 96))
    assert features["res5"].shape == (0, RES5_CHANNELS, 2, 3)
    assert model.dense_embeddings(features["res5"]).shape == (0, 48, 2, 3)


def test_dense_embedding_is_the_pool_with_its_attention_on_one_location(model, reference):
    # clip's pool on a map of one location: the mean token and the location are alike without
    # positions, so whatever the attention, what it attends to is the location.
    pool = AttentionPool2d(1, RES5_CHANNELS, reference.attnpool.num_heads, 48)
    weights = reference.attnpool.state_dict()
    weights["positional_embedding"] = torch.zeros(2, RES5_CHANNELS)
    pool.load_state_dict(weights)
    res5 = torch.randn(2, RES5_CHANNELS, 3, 5)
    locations = res5.permute(0, 2, 3, 1).reshape(-1, RES5_CHANNELS, 1, 1)
    with torch.no_grad():
        expected = pool(locations).reshape(2, 3, 5, 48).permute(0, 3, 1, 2)
        assert_close(model.dense_embeddings(res5), expected)


def test_dense_embeddings_are_two_matrix_products(model, reference):
    res5 = torch.randn(2, RES5_CHANNELS, 3, 5)
    weights = reference.attnpool.state_dict()
    values = torch.einsum("oc,nchw->nohw", weights["v_proj.weight"], res5)
    values += weights["v_proj.bias"][:, None, None]
    expected = torch.einsum("oc,nchw->nohw", weights["c_proj.weight"], values)
    expected += weights["c_proj.bias"][:, None, None]
    with torch.no_grad():
        assert_close(model.dense_embeddings(res5), expected)
        model.fold_dense_projection()
        assert_close(model.dense_embeddings(res5), expected)


# -- positional embedding


def test_native_positions_are_used_as_they_are(model, reference):
    res5 = torch.randn(2, RES5_CHANNELS, 2, 2)
    with torch.no_grad():
        assert torch.equal(model.image_embedding(res5), reference.attnpool(res5))


@settings(max_examples=10)
@given(height=st.integers(1, 9), width=st.integers(1, 9))
def test_positions_are_resized_as_opencv_resizes(reference, height, width):
    model = CLIPResNet(**SIZES | dict(input_resolution=96))
    torch.manual_seed(0)
    nn.init.normal_(model.attnpool.positional_embedding)  # large, for the resizing to matter
    positions = model.attnpool.positional_embedding.data
    grid = positions[1:].reshape(3, 3, -1)
    parts = [
        cv2.resize(part.numpy(), (width, height), interpolation=cv2.INTER_CUBIC)
        for part in grid.split(64, dim=2)  # OpenCV takes a limited number of channels
    ]
    parts = [torch.from_numpy(part).reshape(height * width, -1) for part in parts]
    pool = copy.deepcopy(model.attnpool)
    pool.positional_embedding = nn.Parameter(torch.cat([positions[:1], torch.cat(parts, dim=1)]))
    res5 = torch.randn(2, RES5_CHANNELS, height, width)
    with torch.no_grad():
        torch.testing.assert_close(model.image_embedding(res5), pool(res5), rtol=0, atol=ATOL)


def test_resizing_leaves_the_parameter_alone(model, reference):
    model.image_embedding(torch.randn(1, RES5_CHANNELS, 4, 3))
    positions = reference.attnpool.positional_embedding
    assert torch.equal(model.attnpool.positional_embedding, positions)


# -- what is trained

STEM = {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3"}
LAYERS = ["layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize("freeze_norm", [True, False])
@pytest.mark.parametrize("freeze_at", range(6))
def test_freeze_at(freeze_at, freeze_norm):
    model = CLIPResNet(**SIZES, freeze_at=freeze_at, freeze_norm=freeze_norm)
    stages = [STEM, *({layer} for layer in LAYERS)]
    trained = set().union(*stages[freeze_at:])
    parameters = {name: p.requires_grad for name, p in model.named_parameters()}
    expected = {name: name.split(".")[0] in trained for name in parameters}
    assert parameters == expected
    assert {name for name in parameters if name.startswith("attnpool.")}
    norms = any(name.endswith("bn1.weight") for name, trained in parameters.items() if trained)
    assert norms == (not freeze_norm and freeze_at < 5)


def test_frozen_stages_keep_their_statistics_though_other_norms_train(reference):
    model = build(reference, freeze_at=2, freeze_norm=False).train()
    model(torch.randn(2, 3, 64, 64))
    changed = {
        key.split(".")[0]
        for key, value in model.state_dict().items()
        if not torch.equal(value, reference.state_dict()[key])
    }
    assert changed == {"layer2", "layer3", "layer4"}


def test_frozen_norms_do_the_same_in_training(reference):
    model = build(reference).train()
    x = torch.randn(2, 3, 64, 64)
    trained = {name: feature.detach() for name, feature in model(x).items()}
    for key, value in model.state_dict().items():
        assert torch.equal(value, reference.state_dict()[key]), key
    model.eval()
    with torch.no_grad():
        for name, feature in model(x).items():
            assert_close(trained[name], feature)


def test_all_norms_are_frozen_by_default(model):
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert sum(isinstance(module, FrozenBatchNorm2d) for module in model.modules()) == 25


@pytest.mark.parametrize("method", ["image_embedding", "dense_embeddings"])
@pytest.mark.parametrize("size", [(2, 2), (3, 4)])
def test_gradients_pass_through_the_pool_that_stays(method, size, model):
    model.train()
    res5 = torch.randn(2, RES5_CHANNELS, *size, requires_grad=True)
    getattr(model, method)(res5).square().sum().backward()
    assert res5.grad.isfinite().all()
    assert (res5.grad.abs().amax(dim=1) > 0).all()  # at every location
    assert all(p.grad is None and not p.requires_grad for p in model.attnpool.parameters())


def test_gradients_reach_the_stages_that_train(reference):
    model = build(reference, freeze_at=2).train()
    features = model(torch.randn(2, 3, 64, 64))
    model.image_embedding(features["res5"]).square().sum().backward()
    with_gradient = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"layer2", "layer3", "layer4"}


# -- state dicts


@pytest.mark.parametrize("freeze_norm", [True, False])
def test_keys_are_clips(freeze_norm, reference):
    def keys(module):
        return {key for key in module.state_dict() if not key.endswith("num_batches_tracked")}

    assert keys(CLIPResNet(**SIZES, freeze_norm=freeze_norm)) == keys(reference)


# -- the pyramid


def build_pyramid(cls, bottom_up):
    torch.manual_seed(3)
    return cls(
        bottom_up=bottom_up,
        in_features=["res3", "res4", "res5"],
        out_channels=8,
        top_block=LastLevelP6P7(8, 8, in_feature="p5"),
    )


def test_pyramid_is_detectron2s_and_res5(model):
    x = torch.randn(2, 3, 64, 128)
    expected = build_pyramid(FPN, model)(x)
    fpn = build_pyramid(CLIPFPN, model)
    features = fpn(x)
    assert list(features) == ["p3", "p4", "p5", "p6", "p7", "res5"]
    for name, feature in expected.items():
        assert torch.equal(features[name], feature), name
    assert torch.equal(features["res5"], model(x)["res5"])
    assert list(fpn.output_shape()) == list(expected) and fpn.size_divisibility == 32
    assert not model._forward_hooks


def test_pyramid_computes_the_stages_once_and_gradients_flow_from_both(reference):
    model = build(reference).train()
    fpn = build_pyramid(CLIPFPN, model)
    calls = []
    model.layer4.register_forward_hook(lambda *_: calls.append(1))
    features = fpn(torch.randn(1, 3, 64, 64))
    assert len(calls) == 1
    weight = model.layer4[0].conv1.weight
    for loss in (features["p7"].sum(), model.image_embedding(features["res5"]).sum()):
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        assert gradient.abs().sum() > 0


def test_pyramid_leaves_no_hook_after_an_error(model):
    fpn = build_pyramid(CLIPFPN, model)
    with pytest.raises(RuntimeError):
        fpn(torch.zeros(1, 4, 64, 64))  # fails in the bottom-up network
    assert not model._forward_hooks
    with pytest.raises(RuntimeError):
        fpn(torch.zeros(1, 3, 96, 104))  # fails after it, no multiple of the stride
    assert not model._forward_hooks
    assert "res5" in fpn(torch.zeros(1, 3, 64, 64))
