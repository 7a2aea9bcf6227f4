import re

import pytest
import torch

from gridclip.engine import do_eval_only, do_train
from gridclip.engine.failures import check_device, explain_divergence


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


@pytest.mark.parametrize("lr", [1.0, 1e30])
def test_divergence_is_said_with_the_setting(world_config, lr):
    cfg = world_config(max_iter=40, eval_period=0, clip_grad_norm=None)
    cfg.optimizer.lr = lr
    cfg.lr_multiplier.warmup_length = 0
    setting = re.escape(f"; lower optimizer.lr (now {lr})")
    with pytest.raises(FloatingPointError, match=rf"training diverged at step \d+: .*{setting}$"):
        do_train(cfg)


class Trainer:
    """Fails in its first step."""

    def __init__(self, error, weight=1.0):
        self.iter, self.error = 7, error
        self.model = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(self.model.weight, weight)

    def run_step(self):
        raise self.error


NAN = float("nan")


@pytest.mark.parametrize(
    ("error", "weight", "what"),
    [
        (AssertionError("bad box: x1 larger than x2"), 1.0, "bad box: x1 larger than x2"),
        (AssertionError("bad box: y1 larger than y2"), NAN, "parameters are not finite"),
        (AssertionError("some shape"), float("inf"), "parameters are not finite"),
        (AssertionError("Box tensor contains infinite or NaN!"), 1.0, "infinite or NaN"),
        (FloatingPointError("Loss became NaN\nloss_dict = {}"), 1.0, "NaN loss_dict = {}"),
    ],
)
def test_step_that_met_no_finite_number(error, weight, what):
    trainer = Trainer(error, weight)
    explain_divergence(trainer, 0.5)
    message = rf"^training diverged at step 7: .*{what}.*; lower optimizer.lr \(now 0.5\)$"
    with pytest.raises(FloatingPointError, match=message):
        trainer.run_step()


@pytest.mark.parametrize(
    ("error", "weight"),
    [(AssertionError("some shape"), 1.0), (ValueError("bad box"), NAN), (RuntimeError("x"), NAN)],
)
def test_other_errors_pass(error, weight):
    trainer = Trainer(error, weight)
    explain_divergence(trainer, 0.5)
    with pytest.raises(type(error)) as info:
        trainer.run_step()
    assert info.value is error
