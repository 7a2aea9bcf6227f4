"""Overrides: what exists is set, what does not is refused; any value can be given."""

from pathlib import Path

import pytest
from detectron2.config import LazyConfig
from omegaconf import OmegaConf

from gridclip.settings import TRAIN_SETTINGS, load_config

CONFIGS = Path(__file__).parents[1] / "projects/GridCLIP/configs"
PRODUCTION = CONFIGS / "lvis/gridclip_r50_ov_1x.py"
VILD = CONFIGS / "lvis/vild_r50_ov.py"
ENSEMBLE = CONFIGS / "lvis/vild_ens_r50_ov.py"


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("train.max_itr=5", "train.max_iter"),
        ("max_iter=5", "train.max_iter"),
        ("train={max_itr: 5}", "train.max_iter"),
        ("+train.max_itr=5", "train.max_iter"),
        ("train.amp.enable=False", "train.amp.enabled"),
        ("train.ddp.static_grap=True", "train.ddp.static_graph"),
        ("optimizer.weight_decy=1", "optimizer.weight_decay"),
        ("model.num_sampled_class=20", "model.num_sampled_classes"),
        ("model.head.conv_dim=[8]", "model.head.conv_dims"),
        ("model.image_alignment={wait: 2}", "model.image_alignment.weight"),
        ("dataloader.evaluator.max_dets_image=5", "dataloader.evaluator.max_dets_per_image"),
        ("dataloader.test.mapper.augmentations.1.max_size=5", "dataloader.test.mapper.augmentat"),
    ],
)
def test_setting_that_does_not_exist(override, nearest):
    with pytest.raises(ValueError, match=f"there is no setting .*; the nearest is {nearest}"):
        load_config(PRODUCTION, [override])


@pytest.mark.parametrize(
    ("config", "override"),
    [
        (PRODUCTION, "train.max_iter=20"),
        (PRODUCTION, "+train.max_iter=20"),
        # Arguments that the config leaves at their defaults, of classes and through **kwargs.
        (PRODUCTION, "model.num_sampled_classes=20"),
        (PRODUCTION, "model.focal_loss_alpha=0.5"),
        (PRODUCTION, "model.backbone.fuse_type=avg"),
        (PRODUCTION, "dataloader.evaluator.max_dets_per_image=20"),
        (PRODUCTION, "optimizer.eps=1e-05"),
        (VILD, "model.roi_heads.box_predictor.smooth_l1_beta=0.5"),
        # What detectron2 and torch read.
        (PRODUCTION, "train.cudnn_benchmark=True"),
        (PRODUCTION, "train.ddp.gradient_as_bucket_view=True"),
        (PRODUCTION, "train.checkpointer.file_prefix=weights"),
        # The entries of a dict among the arguments are no settings.
        (PRODUCTION, "optimizer.params.overrides.norm={lr: 0.5}"),
        (PRODUCTION, "dataloader.test.mapper.augmentations.0.max_size=20"),
    ],
)
def test_setting_that_exists(config, override):
    key, _, value = override.removeprefix("+").partition("=")
    cfg = load_config(config, [override])
    assert str(OmegaConf.select(cfg, key)).replace("'", "") == value


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        (PRODUCTION, ["train.seed.x=3"]),
        (PRODUCTION, ["model.dense_scores=null", "model.dense_scores.scale=3"]),
        # detectron2 would set it, and lose all else that the interpolation stands for.
        (ENSEMBLE, ["model.roi_heads.image_head.fc_dims=[8]"]),
    ],
)
def test_what_is_no_section_has_no_settings(config, overrides):
    key = overrides[-1].partition("=")[0]
    with pytest.raises(ValueError, match=f"there is no setting '{key}'; the nearest is {key[:5]}"):
        load_config(config, overrides)


def test_what_a_config_leaves_out_can_be_set():
    cfg = load_config(CONFIGS / "laptop/no_dense_scores.py", ["model.dense_scores={scale: 3}"])
    assert cfg.model.dense_scores == {"scale": 3}
    cfg = load_config(VILD, ["model.roi_heads.image_head='${.box_head}'"])
    assert cfg.model.roi_heads.image_head == cfg.model.roi_heads.box_head


VALUES = {
    "3": 3,
    "1e-4": 1e-4,
    "True": True,
    "null": None,
    "": "",
    "[zebra]": ["zebra"],
    "[a b, c]": ["a b", "c"],
    "{a: 1}": {"a": 1},
    "'a, b'": "a, b",
    '"3"': "3",
    "${train.seed}/x": "0/x",
    r"a\,b": "a,b",
}
STRINGS = (
    "output/lauf=3 (neu), grün",
    "a,b",
    "run(1)",
    "choice(a,b)",
    "it's",
    "~/runs",
    "日本",
    "a\nb",
    "#1",
    "[a=b",
    r"C:\runs\new",
)


@pytest.mark.parametrize(("text", "value"), [*VALUES.items(), *((s, s) for s in STRINGS)])
def test_value(text, value):
    assert load_config(PRODUCTION, [f"clip.names={text}"]).clip.names == value


def test_string_that_looks_like_an_interpolation_is_resolved_or_refused():
    cfg = load_config(PRODUCTION, ["train.output_dir=lr=${optimizer.lr}"])
    assert cfg.train.output_dir == "lr=0.0001"
    with pytest.raises(ValueError, match=r"train.output_dir=a\$\{b can't be set"):
        load_config(PRODUCTION, ["train.output_dir=a${b"])


@pytest.mark.parametrize("override", ["train.seed", "=3", "train..seed=3", ".seed=3", "~train"])
def test_what_is_no_override(override):
    with pytest.raises(ValueError, match=f"'{override}' is not an override: write key=value"):
        load_config(PRODUCTION, [override])


@pytest.mark.parametrize(
    ("line", "wrong", "right"),
    [
        ("train.max_itr = 5", "train.max_itr", "train.max_iter"),
        ("train.update(eval_periods=5)", "train.eval_periods", "train.eval_period"),
        ("train.ema.enable = True", "train.ema.enable", "train.ema.enabled"),
        ("train.checkpointer.periods = 5", "train.checkpointer.periods", "train.checkpointer.per"),
    ],
)
def test_train_setting_of_a_file_that_does_not_exist(line, wrong, right, tmp_path):
    path = tmp_path / "mine.py"
    names = "clip, dataloader, lr_multiplier, model, optimizer, train"
    base = (
        f"from detectron2.config import LazyConfig\n_cfg = LazyConfig.load({str(PRODUCTION)!r})\n"
    )
    lines = [f"{name} = _cfg.{name}\n" for name in names.split(", ")]
    path.write_text(f"{base}{''.join(lines)}shapes = dict(world='dev')\n")
    assert load_config(path).shapes.world == "dev"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(ValueError, match=f"mine.py: .* '{wrong}'; the nearest is {right}"):
        load_config(path)
    with pytest.raises(ValueError, match=f"the config: .* '{wrong}'"):
        load_config(LazyConfig.load(str(path)))


def test_train_settings_are_those_of_the_configs():
    train = LazyConfig.load(str(CONFIGS / "common/train.py")).train
    assert set(train) | {"cudnn_benchmark"} == set(TRAIN_SETTINGS["train"])
    # By default the type of mixed precision is the GPU's best.
    assert set(train.amp) | {"dtype"} == set(TRAIN_SETTINGS["train.amp"])
    for section in ("inference", "ema"):
        assert set(train[section]) == set(TRAIN_SETTINGS[f"train.{section}"])


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("*/*.py")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_config_is_as_detectron2_loads_it(path):
    assert load_config(path) == LazyConfig.load(str(path))


def test_config_stays_as_it_is():
    cfg = LazyConfig.load(str(PRODUCTION))
    assert load_config(cfg, ["train.seed=5"]).train.seed == 5
    assert cfg.train.seed == 0


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="No config at '.*none.py'"):
        load_config(tmp_path / "none.py")
