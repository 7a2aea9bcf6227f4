"""ViLD's configs say what the method's published configurations say."""

from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

from gridclip.data import open_dataset
from gridclip.vild import PooledRegionScores, RegionScores

CONFIGS = Path(__file__).parents[1] / "projects/GridCLIP/configs"
NAMES = sorted(path.stem for path in (CONFIGS / "lvis").glob("vild_*.py"))


def load(name):
    return LazyConfig.load(str(CONFIGS / "lvis" / f"{name}.py"))


def container(node):
    return OmegaConf.to_container(node, resolve=False)


def test_the_fixed_names_are_there():
    assert {"vild_text_r50_ov", "vild_r50_ov", "vild_ens_r50_ov"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_rare_categories_are_novel_and_not_in_the_training_data(name, mini_datasets):
    cfg = load(name)
    rare = open_dataset(dataset="lvis_v1_train", novel="rare").novel_classes
    assert instantiate(cfg.model.classifier.novel_classes) == list(rare) and len(rare) == 337
    assert (cfg.data.train.dataset, cfg.data.val.dataset) == ("lvis_v1_train", "lvis_v1_val")


def test_novel_classes_follow_the_data_set(mini_datasets):
    cfg = load("vild_r50_ov")
    cfg.data.novel = None  # as in full supervision
    assert instantiate(cfg.model.classifier.novel_classes) == []


@pytest.mark.parametrize("name", [name for name in NAMES if "imagenet" not in name])
def test_backbone_is_gridclips(name):
    cfg, gridclip = load(name), load("gridclip_r50_ov_1x")
    assert container(cfg.model.backbone.bottom_up) == container(gridclip.model.backbone.bottom_up)
    assert cfg.model.pixel_mean == gridclip.model.pixel_mean
    assert cfg.model.pixel_std == gridclip.model.pixel_std
    if not name.endswith("smoke"):
        assert cfg.clip.weights == gridclip.clip.weights
        assert cfg.clip.text_embeddings == gridclip.clip.text_embeddings


@pytest.mark.parametrize(
    ("name", "images", "rates"),
    [
        # Steps and the learning rate there; warm-up ends at 1,000, or at 500.
        ("vild_r50_ov", 46_080_000, {999: 0.32, 1_001: 0.32, 161_000: 0.32, 163_000: 0.032}),
        ("vild_r50_ov", 46_080_000, {170_000: 0.032, 172_000: 0.0032, 179_999: 0.0032}),
        ("vild_r50_ov_20ep", 2_000_000, {501: 0.02, 99_000: 0.02, 101_000: 0.002}),
        ("vild_r50_ov_20ep", 2_000_000, {0: 2e-5, 124_999: 0.002}),
    ],
)
def test_schedules_are_what_the_comments_say(name, images, rates):
    cfg = load(name)
    assert cfg.train.max_iter * cfg.dataloader.train.total_batch_size == images
    schedule = instantiate(cfg.lr_multiplier)
    for step, rate in rates.items():
        assert cfg.optimizer.lr * schedule(step / cfg.train.max_iter) == pytest.approx(rate, 5e-3)


def test_one_learning_rate_an_image():
    rates = [
        cfg.optimizer.lr / cfg.dataloader.train.total_batch_size
        for cfg in map(load, ("vild_r50_ov", "vild_r50_ov_20ep", "vild_r50_ov_smoke"))
    ]
    assert rates == pytest.approx([0.00125] * 3)


def test_variants_differ_in_the_method_alone():
    vild, text, ensemble = map(load, ("vild_r50_ov", "vild_text_r50_ov", "vild_ens_r50_ov"))
    assert vild.model.roi_heads.distillation_weight == 0.5
    text.model.roi_heads.distillation_weight = 0.5
    ensemble.model.roi_heads.image_head = None
    text.dataloader.train.mapper.embeddings = "${clip.region_embeddings}"
    for cfg in (text, ensemble):
        cfg.train.output_dir = vild.train.output_dir
        assert container(cfg) == container(vild)


def test_smoke_differs_in_size_iterations_and_device_alone():
    production, smoke = load("vild_r50_ov"), load("vild_r50_ov_smoke")
    production.model.proposal_generator.post_nms_topk = [50, 50]
    production.model.roi_heads.batch_size_per_image = 32
    assert container(production.model) == container(smoke.model)
    assert container(production.lr_multiplier) == container(smoke.lr_multiplier)
    production.optimizer.lr = smoke.optimizer.lr
    assert container(production.optimizer) == container(smoke.optimizer)
    train = production.dataloader.train
    train.mapper.augmentations[0].update(target_height=160, target_width=160)
    train.mapper.augmentations[1].crop_size = (160, 160)
    train.update(total_batch_size=2, num_workers=0)
    test = production.dataloader.test
    test.mapper.augmentations[0].update(short_edge_length=160, max_size=160)
    test.num_workers = 0
    assert container(production.dataloader) == container(smoke.dataloader)


def test_imagenet_backbone_and_its_normalisation():
    cfg = load("vild_r50_imagenet_ov")
    shapes = instantiate(cfg.model.backbone.bottom_up).output_shape()
    assert {k: (v.channels, v.stride) for k, v in shapes.items()} == {
        "res2": (256, 4),
        "res3": (512, 8),
        "res4": (1024, 16),
        "res5": (2048, 32),
    }
    assert cfg.model.pixel_mean == pytest.approx([255 * x for x in (0.485, 0.456, 0.406)])
    assert cfg.model.pixel_std == pytest.approx([255 * x for x in (0.229, 0.224, 0.225)])
    assert cfg.clip.weights == "clip://RN50"


def test_evaluation_is_gridclips():
    cfg, gridclip = load("vild_r50_ov"), load("gridclip_r50_ov_1x")
    assert container(cfg.dataloader.evaluator) == container(gridclip.dataloader.evaluator)
    most = cfg.model.roi_heads.box_predictor.test_topk_per_image
    assert most == gridclip.model.max_detections_per_image == 300


def test_dense_scores_and_a_frozen_trunk_are_all_that_differs():
    dense, vild, fvlm, text = map(
        load, ("vild_r50_dense_ov", "vild_r50_ov", "fvlm_r50_ov", "vild_text_r50_ov")
    )
    assert instantiate(dense.model.dense_scores) == RegionScores(40.0, 0.15, 0.35)
    assert instantiate(fvlm.model.dense_scores) == PooledRegionScores(100.0, 0.35, 0.65)
    text.model.backbone.bottom_up.freeze_at = 5
    for cfg, other in ((dense, vild), (fvlm, text)):
        cfg.model.dense_scores = None
        cfg.train.output_dir = other.train.output_dir
        assert container(cfg) == container(other)


@pytest.mark.parametrize("name", ["vild_text", "vild", "vild_ensemble"])
def test_the_laptop_worlds_vilds_have_gridclips_dense_scores(name):
    cfg, dense, gridclip = (
        LazyConfig.load(str(CONFIGS / "laptop" / f"{x}.py"))
        for x in (name, f"{name}_dense", "gridclip")
    )
    assert dense.model.dense_scores.scale == gridclip.model.dense_scores.scale
    assert isinstance(instantiate(dense.model.dense_scores), RegionScores)
    dense.model.dense_scores, dense.train.output_dir = None, cfg.train.output_dir
    assert container(dense) == container(cfg)


def test_the_laptop_worlds_fvlm_is_vild_text_on_a_frozen_trunk():
    fvlm, text = (
        LazyConfig.load(str(CONFIGS / "laptop" / f"{x}.py")) for x in ("fvlm", "vild_text")
    )
    assert instantiate(fvlm.model.dense_scores) == PooledRegionScores(15.0, 0.35, 0.35)
    text.model.backbone.bottom_up.freeze_at = 5
    fvlm.model.dense_scores, fvlm.train.output_dir = None, text.train.output_dir
    assert container(fvlm) == container(text)
