from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead

from benchmark.contestants import random_text_embeddings
from benchmark.inputs import inference_batches, random_pictures

CONFIGS = Path(__file__).parents[2] / "projects/GridCLIP/configs"
CLASSES, DIM = 9, 32


@pytest.fixture
def configs() -> Path:
    return CONFIGS / "lvis"


@pytest.fixture
def batch() -> list[dict]:
    return inference_batches(random_pictures(1, 64, 96), 1)[0]


def _tiny(name):
    cfg = LazyConfig.load(str(CONFIGS / f"common/{name}.py")).model
    cfg.backbone.bottom_up.update(
        layers=(1, 1, 1, 1), width=8, embed_dim=DIM, input_resolution=64, freeze_at=2
    )
    cfg.backbone.out_channels = 64
    cfg.classifier.update(text_embeddings=None, embed_dim=DIM)
    return cfg


def _with_words(cfg, **changes):
    words = random_text_embeddings(CLASSES, DIM)
    classifier = {**cfg.classifier, "text_embeddings": words, **changes}
    return instantiate({**cfg, "classifier": classifier}).eval()


def _gridclip(levels=("p3", "p4", "p5", "p6", "p7")):
    cfg = _tiny("gridclip_r50")
    cfg.head_in_features, cfg.head.num_levels = list(levels), len(levels)
    cfg.head.conv_dims = [64]
    return _with_words(cfg)


def _vild(ensemble=False):
    cfg = _tiny("vild_r50")
    cfg.roi_heads.box_head.update(conv_dims=[64], fc_dims=[64])
    cfg.roi_heads.box_predictor.input_shape.channels = 64
    cfg.roi_heads.box_predictor.test_topk_per_image = 20
    cfg.proposal_generator.post_nms_topk = [50, 50]
    if ensemble:
        cfg.roi_heads.image_head = "${.box_head}"
    return _with_words(cfg, novel_classes=[2])


def _fcos():
    cfg = _tiny("gridclip_r50")
    backbone = instantiate(cfg.backbone)
    shapes = [backbone.output_shape()[name] for name in cfg.head_in_features]
    return FCOS(
        backbone=backbone,
        head=FCOSHead(input_shape=shapes, conv_dims=[64], num_classes=CLASSES, norm="GN"),
        head_in_features=list(cfg.head_in_features),
        num_classes=CLASSES,
        test_score_thresh=0.01,
        pixel_mean=list(cfg.pixel_mean),
        pixel_std=list(cfg.pixel_std),
    ).eval()


@pytest.fixture(scope="session")
def tiny():
    """Builds a very small "gridclip", "vild", "vild_ensemble" or "fcos", or "gridclip" of two
    levels: fewer nodes export faster."""
    builders = {
        "gridclip": _gridclip,
        "gridclip_of_two_levels": lambda: _gridclip(["p4", "p7"]),
        "vild": _vild,
        "vild_ensemble": lambda: _vild(ensemble=True),
        "fcos": _fcos,
    }
    return lambda name: builders[name]()


@pytest.fixture
def reference_conv_macs():
    """Multiply-adds of a convolution's output, by definition."""

    def count(conv, output):
        per_value = conv.in_channels // conv.groups * conv.kernel_size[0] * conv.kernel_size[1]
        return output.numel() * per_value

    return count
