"""The detectors at a very small size: what they find, and in OpenVINO the same. No time is
tested."""

from functools import partial

import pytest
import torch

from benchmark.inputs import random_pictures
from benchmark.peers import hugging_face, ours, yolo
from benchmark.peers.detect import INT8, OPENVINO, PYTORCH, Found, Scene
from benchmark.peers.graphs import Compiled, to_openvino
from benchmark.peers.networks import NetworkForms, multiply_adds
from benchmark.peers.ours import GridCLIPForms, GridCLIPSource, ViLDForms

NAMES = 9
# By name: what builds it, its library, and the side of a picture.
PEERS = {
    "yolo_world": (partial(yolo.yolo_world_network, "s"), "ultralytics", 128),
    "yoloe": (partial(yolo.yoloe_network, "s"), "ultralytics", 128),
    "owlvit": (hugging_face.owlvit_network, "transformers", 64),
    "owlv2": (hugging_face.owlv2_network, "transformers", 64),
    "omdet_turbo": (hugging_face.omdet_network, "transformers", 224),
    "grounding_dino": (hugging_face.dino_network, "transformers", 96),
}


def scene_of(height, width, names=NAMES):
    return Scene(random_pictures(2, height, width), names)


def check(found: Found, scene: Scene):
    count = len(found.scores)
    assert 0 < count <= 1000 and found.boxes.shape == (count, 4)
    assert found.classes.shape == (count,)
    assert 0 <= found.classes.min() and found.classes.max() < scene.names
    assert found.classes.dtype == torch.int64 and found.boxes.isfinite().all()
    assert 0 <= found.scores.min() and found.scores.max() <= 1


@pytest.fixture(scope="module")
def opened():
    """Builds a peer once: its network, its forms and its scene."""
    built = {}

    def get(name):
        if name not in built:
            build, library, side = PEERS[name]
            pytest.importorskip(library)
            torch.manual_seed(0)
            scene = scene_of(side, side)
            network = build(scene)
            built[name] = network, NetworkForms(network, scene), scene
        return built[name]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_detections(name, opened):
    network, forms, scene = opened(name)
    check(forms.open(PYTORCH)(scene.pictures[0]), scene)
    assert forms.gmac > 0.01
    assert forms.parameters == sum(p.numel() for p in network.module.parameters()) > 10**7


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_openvino_finds_the_same(name, opened):
    pytest.importorskip("openvino")
    network, forms, scene = opened(name)
    check(forms.open(OPENVINO)(scene.pictures[0]), scene)
    x = scene.pictures[1][None].float()
    graph = Compiled(to_openvino(network.module, x))
    with torch.no_grad():
        expected, found = network.module(x), graph(x)
    if isinstance(expected, torch.Tensor):  # YOLO's: boxes in pixels, and very small scores
        boxes = found[0][:, :4] / 128, expected[:, :4] / 128
        torch.testing.assert_close(*boxes, rtol=0, atol=1e-3)
        torch.testing.assert_close(found[0][:, 4:], expected[:, 4:], rtol=2e-2, atol=1e-6)
        return
    torch.testing.assert_close(found[0].sigmoid(), expected[0].sigmoid(), rtol=0, atol=1e-3)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["owlvit", "yolo_world"])
def test_eight_bits(name, opened):
    pytest.importorskip("nncf")
    _, forms, scene = opened(name)
    check(forms.open(INT8)(scene.pictures[0]), scene)
    with pytest.raises(ValueError, match="no form 'four bits'"):
        forms.open("four bits")


def test_words_as_weights_are_the_librarys_own_head():
    block = pytest.importorskip("ultralytics.nn.modules.block")
    torch.manual_seed(0)
    words, x = torch.randn(NAMES, 16), torch.randn(1, 16, 5, 7)
    head = block.BNContrastiveHead(16).eval()
    head.norm.running_mean.normal_()
    head.norm.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        expected, found = head(x, words[None]), yolo.WordsAsWeights(head, words)(x, words[None])
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
def test_as_many_of_yolos_pairs_pass_as_of_others(opened, monkeypatch):
    pytest.importorskip("ultralytics")
    monkeypatch.setattr(yolo, "SURVIVORS", 40)
    scene = scene_of(128, 128)
    for build in (yolo.yolo_world_network, yolo.yoloe_network):
        module = build("s", scene).module
        with torch.no_grad():
            scores = module(scene.pictures[0][None].float())[0, 4:]
        # Fusing the norms moves scores in their last digits.
        assert 36 <= (scores > yolo.CONFIDENCE).sum() <= 44


def test_too_many_words_and_odd_pictures_are_refused():
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="square pictures, not 32 x 64"):
        hugging_face.owlvit_network(scene_of(32, 64))


def test_a_missing_library_names_the_file(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match="requirements-peers.txt"):
        hugging_face.owlvit_network(scene_of(32, 32))


@pytest.fixture(scope="module")
def gridclip_forms(tiny):
    """Exported once."""
    return GridCLIPForms(GridCLIPSource(), tiny("gridclip_of_two_levels"), scene_of(64, 96))


@pytest.mark.slow
def test_gridclip_in_openvino_finds_the_same(gridclip_forms):
    pytest.importorskip("openvino")
    forms, scene = gridclip_forms, gridclip_forms.scene
    expected, found = (forms.open(form)(scene.pictures[0]) for form in (PYTORCH, OPENVINO))
    check(found, scene)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-3)
    assert len(forms.open(ours.TRUNK)(scene.pictures[0]).scores) == 0
    with pytest.raises(KeyError):  # of a picture that was not prepared
        forms.open(ours.TRUNK)(scene.pictures[0].clone())


@pytest.mark.slow
def test_gridclip_in_eight_bits(gridclip_forms):
    pytest.importorskip("nncf")
    forms, scene = gridclip_forms, gridclip_forms.scene
    check(forms.open(INT8)(scene.pictures[0]), scene)
    check(forms.open(ours.BFLOAT16)(scene.pictures[0]), scene)


def test_vild_with_its_two_graphs_finds_the_same(tiny):
    pytest.importorskip("openvino")
    scene = scene_of(64, 96)
    forms = ViLDForms(tiny("vild"), scene)
    for picture in scene.pictures:
        expected, found = (forms.open(form)(picture) for form in (PYTORCH, OPENVINO))
        check(found, scene)
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-3)
        assert (found.classes == expected.classes).float().mean() > 0.9
    with pytest.raises(ValueError, match="no form"):
        forms.open("four bits")


@pytest.mark.slow
def test_vild_in_eight_bits(tiny):
    pytest.importorskip("nncf")
    scene = scene_of(64, 96)
    check(ViLDForms(tiny("vild"), scene).open(INT8)(scene.pictures[0]), scene)


def test_multiply_adds_of_attention():
    class Attention(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    # 2 heads of 5 tokens: 5 x 5 products of 3, and as many sums of 3.
    assert multiply_adds(Attention(), torch.rand(1, 2, 5, 3)) == 2 * 5 * 5 * (3 + 3)
