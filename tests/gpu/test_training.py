"""Training on a device: where it happens, its losses, and mixed precision."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.env import seed_all_rng

from gridclip.engine import do_train
from gridclip.engine.prepare import prepare_embeddings, prepare_text_embeddings
from gridclip.engine.train import build_model
from gridclip.evaluation import read_results
from world import tiny_config, tiny_vild_config

STEPS = 4


def config(family, world, tiny_clip, folder, **train):
    if family == "vild":
        cfg = tiny_vild_config("text", world, tiny_clip, folder / "output", **train)
    else:
        cfg = tiny_config(world, tiny_clip, folder / "output", **train)
    cfg.train.update(max_iter=STEPS, eval_period=0, log_period=1, seed=0)
    return cfg


def trained(cfg, device, dtype=None):
    """Train on a device; returns the scalars of each step and the weights."""
    cfg.train.device = device
    cfg.train.output_dir = f"{cfg.train.output_dir}/{device}_{dtype}"
    cfg.train.amp.enabled = dtype is not None
    if dtype is not None:
        cfg.train.amp.dtype = dtype
    data = instantiate(cfg.data.train)
    prepare_text_embeddings(cfg, data)
    prepare_embeddings(cfg, data)
    seed_all_rng(0)
    do_train(cfg)
    folder = Path(cfg.train.output_dir)
    lines = list(map(json.loads, (folder / "metrics.json").read_text().splitlines()))
    weights = torch.load(folder / "model_final.pth", weights_only=True, map_location="cpu")["model"]
    assert read_results(folder / "results.json")["precision"] == (dtype or "float32")
    return lines, weights


def first_losses(lines):
    return {
        name: value
        for name, value in lines[0].items()
        if name.startswith("loss_") and name != "loss_scale"
    }


@pytest.mark.parametrize("family", ["gridclip", "vild"])
def test_first_losses_are_the_cpus(family, world, tiny_clip, tmp_path, device):
    """Later ones differ: each device rounds in its own way, and ViLD's draws are its own."""
    lines, weights = trained(config(family, world, tiny_clip, tmp_path), device)
    assert all(value.isfinite().all() for value in weights.values())
    if family == "gridclip":
        expected, _ = trained(config(family, world, tiny_clip, tmp_path), "cpu")
        found = first_losses(lines)
        assert len(found) == 5
        assert found == pytest.approx(first_losses(expected), rel=1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_is_near_float32(world, tiny_clip, tmp_path, device, dtype):
    expected, _ = trained(config("gridclip", world, tiny_clip, tmp_path), device)
    lines, weights = trained(config("gridclip", world, tiny_clip, tmp_path), device, dtype)
    assert first_losses(lines) == pytest.approx(first_losses(expected), rel=0.05)
    assert all(value.isfinite().all() for value in weights.values())
    scalars = {name: value for line in lines for name, value in line.items()}
    assert scalars["skipped_steps"] == 0 and ("loss_scale" in scalars) == (dtype == "float16")


def test_all_of_the_model_is_there(world, tiny_clip, tmp_path, device):
    cfg = config("gridclip", world, tiny_clip, tmp_path, device=device)
    prepare_text_embeddings(cfg, instantiate(cfg.data.train))
    model = build_model(cfg)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert {name for name, value in tensors.items() if value.device.type != device} == set()


def test_averaged_weights_and_resume(world, tiny_clip, tmp_path, device):
    """A checkpoint is read onto the device, the scaler's state included."""
    cfg = config("gridclip", world, tiny_clip, tmp_path, device=device)
    cfg.train.ema.update(enabled=True, decay=0.5)
    cfg.train.amp.update(enabled=True, dtype="float16")
    do_train(cfg)
    cfg.train.max_iter = STEPS + 2
    do_train(cfg, resume=True)
    results = read_results(f"{cfg.train.output_dir}/results.json")
    assert results["iterations"] == STEPS + 2
