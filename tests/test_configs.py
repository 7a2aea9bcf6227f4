"""Every config loads, serialises and says what its name says."""

from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

from gridclip.data import open_dataset, training_records

CONFIGS = Path(__file__).parents[1] / "projects/GridCLIP/configs"
RUNNABLE = sorted(p for p in CONFIGS.glob("*/*.py") if p.parent.name != "common")


def load(name):
    return LazyConfig.load(str(CONFIGS / "lvis" / f"{name}.py"))


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_serialises_and_comes_back(path, tmp_path):
    cfg = LazyConfig.load(str(path))
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert not (tmp_path / "config.yaml.pkl").exists()
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert set(again) >= {"model", "clip", "dataloader", "optimizer", "lr_multiplier", "train"}
    assert again.train == cfg.train
    vild = path.stem.startswith(("vild", "fvlm"))
    assert again.model._target_ == ("gridclip.vild.ViLD" if vild else "gridclip.modeling.GridCLIP")


@pytest.mark.parametrize(
    ("name", "images", "lr", "warmup"),
    [
        ("gridclip_r50_ov_1x", 1_440_000, 1e-4, 5_000),
        ("gridclip_r50_ov_2x", 2_880_000, 1e-4, 5_000),
        ("gridclip_r50_ov_lsj_2x", 2_880_000, 1e-4, 5_000),
        ("gridclip_r50_ov_lsj_b64_4x", 5_760_000, 2e-4, 10_000),
    ],
)
def test_schedules_are_what_the_comments_say(name, images, lr, warmup):
    cfg = load(name)
    steps = cfg.train.max_iter
    assert steps * cfg.dataloader.train.total_batch_size == images
    assert cfg.optimizer.lr == lr
    schedule = instantiate(cfg.lr_multiplier)
    at = [
        schedule(s / steps) for s in (warmup - 1, warmup + 1, steps * 0.66, steps * 0.67, steps - 1)
    ]
    assert 0.99 < at[0] < 1.0 and at[1:] == pytest.approx([1.0, 1.0, 0.1, 0.01])
    assert schedule(warmup / 2 / steps) == pytest.approx(0.5, abs=1e-2)


def test_large_scale_jitter_is_vilds():
    jittered, vild = load("gridclip_r50_ov_lsj_2x"), load("vild_r50_ov")
    plain = load("gridclip_r50_ov_2x")
    assert jittered.model == plain.model and jittered.optimizer == plain.optimizer
    for part in ("train", "test"):
        loader = jittered.dataloader[part]
        assert loader.mapper.augmentations == vild.dataloader[part].mapper.augmentations
        loader.mapper.augmentations = plain.dataloader[part].mapper.augmentations
    assert OmegaConf.to_container(jittered.dataloader) == OmegaConf.to_container(plain.dataloader)


def test_open_vocabulary_never_samples_a_rare_category(mini_datasets):
    rare = open_dataset(dataset="lvis_v1_train", novel="rare").novel_classes
    assert len(rare) == 337
    names = ("1x", "2x", "lsj_2x", "lsj_b64_4x", "smoke")
    for cfg in (load(f"gridclip_r50_ov_{name}") for name in names):
        assert instantiate(cfg.data.train).novel_classes == rare
        assert cfg.dataloader.train.dataset._target_ is training_records
        weights = instantiate(cfg.model.federated_weights)
        assert weights.shape == (1203,) and (weights[list(rare)] == 0).all()
        assert instantiate(cfg.data.val).novel_classes == rare


def test_full_supervision_leaves_nothing_out(mini_datasets):
    cfg = load("gridclip_r50_full_1x")
    for part in ("train", "val"):
        assert instantiate(cfg.data[part]).novel_classes is None


def test_smoke_differs_in_size_iterations_and_device_alone():
    production, smoke = load("gridclip_r50_ov_1x"), load("gridclip_r50_ov_smoke")
    assert OmegaConf.to_container(production.model) == OmegaConf.to_container(smoke.model)
    assert production.optimizer == smoke.optimizer
    production.dataloader.train.mapper.augmentations[0].short_edge_length = (160,)
    production.dataloader.test.mapper.augmentations[0].short_edge_length = 160
    for part in ("train", "test"):
        production.dataloader[part].num_workers = 0
    production.dataloader.train.total_batch_size = 2
    assert OmegaConf.to_container(production.dataloader) == OmegaConf.to_container(smoke.dataloader)


def test_pixels_are_normalised_as_clip_does():
    model = load("gridclip_r50_ov_1x").model
    assert model.pixel_mean == pytest.approx([122.7709, 116.7460, 104.0937], abs=1e-3)
    assert model.pixel_std == pytest.approx([68.5005, 66.6322, 70.3232], abs=1e-3)


def test_laptop_experiments_differ_in_one_thing():
    def flat(name):
        cfg = LazyConfig.load(str(CONFIGS / "laptop" / f"{name}.py"))
        found = {}

        def walk(node, path):
            if isinstance(node, dict):
                for key, value in node.items():
                    walk(value, (*path, key))
            else:
                found[path] = node

        walk(OmegaConf.to_container(cfg), ())
        del found["train", "output_dir"]
        return found

    default = flat("gridclip")
    changed = {
        name: {
            ".".join(map(str, key))
            for key in default.keys() | other.keys()
            if default.get(key) != other.get(key)
        }
        for name in (
            *("whole_image_alignment", "no_image_alignment", "closed_set"),
            *("random_init", "classification_init", "light_towers", "no_distribution"),
            *("gridclip_4000", "grid_image_alignment", "aligned_slow_backbone"),
        )
        for other in [flat(name)]
    }
    dense_scores = {f"model.dense_scores.{key}" for key in ("_target_", "scale", "weight")}
    assert changed["closed_set"] == {"model.classifier._target_", *dense_scores}
    assert changed["random_init"] == {
        "train.init_checkpoint",
        "model.backbone.bottom_up.freeze_norm",
        *dense_scores,
    }
    assert changed["classification_init"] == {"train.init_checkpoint", *dense_scores}
    assert changed["no_distribution"] == {"model.head._target_", "model.head.box_bias"}
    assert changed["light_towers"] == {"model.head.conv_dims"}
    assert changed["gridclip_4000"] == {"train.max_iter", "lr_multiplier.warmup_length"}
    assert changed["aligned_slow_backbone"] == {"optimizer.params.lr_factor_func.factor"}
    assert changed["grid_image_alignment"] == {
        f"model.image_alignment.{key}"
        for key in ("_target_", "weight", "in_features", "in_channels")
    }
    assert changed["whole_image_alignment"] <= {
        "clip.windows",
        "model.image_alignment._target_",
    }
    assert all(
        k.startswith(("model.image_alignment", "clip.image_embeddings"))
        for k in changed["no_image_alignment"]
    )


def flat(path):
    """A config's settings by dotted name."""
    found = {}

    def walk(node, name):
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(value, f"{name}.{key}".lstrip("."))
        else:
            found[name] = node

    walk(OmegaConf.to_container(LazyConfig.load(str(CONFIGS / path))), "")
    return found


def test_fine_tuning_differs_from_own_data_where_it_says():
    before, after = flat("custom/gridclip_r50.py"), flat("custom/fine_tune.py")
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    weights = {key for key in before if key.startswith("model.federated_weights")}
    assert weights and changed - weights - {"model.federated_weights"} == {
        "optimizer.lr",
        "train.init_checkpoint",
        "train.max_iter",
        "train.output_dir",
    }
    assert after["model.federated_weights"] is None
    assert after["model.image_alignment.weight"] == before["model.image_alignment.weight"] > 0
