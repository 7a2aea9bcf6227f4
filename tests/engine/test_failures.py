import re

import pytest
import torch

from gridclip.engine import do_eval_only, do_train
from gridclip.engine.failures import check_device


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("run", [do_train, do_eval_only])
def test_missing_gpu_is_said_before_anything_is_computed(run, world_config, tmp_path):
    cfg = world_config(device="cuda")
    with pytest.raises(ValueError, match=r"add train.device=cpu train.amp.enabled=False\."):
        run(cfg)
    assert not (tmp_path / "output").exists()


@pytest.mark.usefixtures("no_gpu")
def test_half_precision_needs_a_gpu_in_training_alone(world_config):
    cfg = world_config(device="cpu")
    check_device(cfg, training=True)
    cfg.train.amp.enabled = True
    check_device(cfg, training=False)
    with pytest.raises(
        ValueError, match="No CUDA.*train.amp.enabled=True: add .*train.amp.enabled=False"
    ):
        do_train(cfg)
    cfg.train.amp.dtype = "bfloat16"  # asked for by its name
    check_device(cfg, training=True)
    cfg.train.amp.dtype = "float64"
    with pytest.raises(ValueError, match="train.amp.dtype is 'float64': take bfloat16 or float16"):
        do_train(cfg)


@pytest.mark.parametrize("lr", [1.0, 30.0, 1e30])
def test_divergence_is_said_with_the_setting(world_config, lr):
    cfg = world_config(max_iter=40, eval_period=0, clip_grad_norm=None)
    cfg.optimizer.lr = lr
    cfg.lr_multiplier.warmup_length = 0
    setting = re.escape(f"; lower optimizer.lr (now {lr})")
    with pytest.raises(
        FloatingPointError, match=rf"training diverged at step \d+: .*{setting}$"
    ) as info:
        do_train(cfg)
    assert "bad box" not in str(info.value)
