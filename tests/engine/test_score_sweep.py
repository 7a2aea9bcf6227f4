"""A sweep of the dense scores finds what single evaluations find, with one pass of the network."""

import importlib.util
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from box_sizes import spread_boxes
from gridclip.engine import GridCLIPCheckpointer
from gridclip.engine.prepare import prepare_text_embeddings
from gridclip.engine.score_sweep import sweep_scores
from gridclip.engine.train import build_evaluator, build_model, do_test
from gridclip.modeling import CLIPResNet, GridCLIP
from world import tiny_vild_config

SCRIPT = Path(__file__).parents[2] / "scripts/tune_scores.py"
SETTINGS = [{"scale": 20.0}, {"weight": 0.5, "scale": 60.0}, {"weight": 0.0}]


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("tune_scores", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def untrained(cfg):
    prepare_text_embeddings(cfg, instantiate(cfg.data.train))
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if isinstance(model, GridCLIP):
        spread_boxes(model.head)
    return model


def single(cfg, model, setting):
    cfg.model.dense_scores.update(setting)
    other = build_model(cfg).eval()
    other.load_state_dict(model.state_dict())
    return do_test(cfg, other, build_evaluator(cfg, other.classifier.names))["bbox"]


@pytest.mark.parametrize("kind", ["gridclip", "fvlm"])
def test_equals_evaluations_one_by_one(kind, world_config, world, tiny_clip, tmp_path, monkeypatch):
    if kind == "fvlm":
        cfg = tiny_vild_config("fvlm", world, tiny_clip, tmp_path / "output")
    else:
        cfg = world_config()
    model, passes, forward = untrained(cfg), [], CLIPResNet.forward
    monkeypatch.setattr(CLIPResNet, "forward", lambda self, x: passes.append(x) or forward(self, x))
    found = list(sweep_scores(cfg, model, SETTINGS))
    pictures = sum(isinstance(x, torch.Tensor) for x in passes)
    assert pictures == len(instantiate(cfg.dataloader.test))
    if kind == "gridclip":
        assert len({metrics["AP50"] for metrics in found}) > 1
    configured = {name: cfg.model.dense_scores[name] for name in ("scale", "weight")}
    for setting, metrics in zip(SETTINGS, found, strict=True):
        expected = single(cfg, model, {**configured, **setting})
        assert metrics == pytest.approx(expected, nan_ok=True)


def test_a_model_without_dense_scores_is_refused(world_config):
    cfg = world_config()
    cfg.model.dense_scores = None
    with pytest.raises(ValueError, match="no dense scores"):
        next(sweep_scores(cfg, untrained(cfg), SETTINGS))


def test_a_weight_for_novel_categories_needs_to_know_them(world_config):
    cfg = world_config()
    with pytest.raises(ValueError, match="novel_classes"):
        next(sweep_scores(cfg, untrained(cfg), [{"novel_weight": 0.3}]))


def test_novel_categories_do_not_choose(script, capsys):
    arguments = ["--config-file", "c.py", "--weights", "w.pth", "--scales", "1", "2"]
    for metric in ("AP", "APr", "AP_novel", "AP50", "APr_shape"):
        with pytest.raises(SystemExit):
            script.parse_args([*arguments, "--metric", metric])
        assert "--development" in capsys.readouterr().err
    assert script.parse_args(arguments).metric == "AP_base"
    args = script.parse_args([*arguments, "--metric", "APr", "--development"])
    assert script.settings(args) == [{"scale": 1.0}, {"scale": 2.0}]


def test_command_prints_the_best_first(script, world_config, tmp_path, capsys):
    cfg = world_config()
    model = untrained(cfg)
    GridCLIPCheckpointer(model, str(tmp_path)).save("detector")
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    script.main(
        [
            *("--config-file", str(tmp_path / "config.yaml")),
            *("--weights", str(tmp_path / "detector.pth")),
            *("--base-weights", "0.1", "0.9", "--metric", "AP50", "--development"),
        ]
    )
    lines = capsys.readouterr().out.split("Best first:\n")[1].splitlines()
    values = [float(line.split()[1]) for line in lines]
    assert len(values) == 2 and values == sorted(values, reverse=True)
