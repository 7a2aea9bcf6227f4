import re
import shutil

import pytest
import torch
from detectron2.utils import comm
from torch.utils.data import DataLoader

from gridclip.engine import do_eval_only, do_train
from gridclip.engine.failures import (
    bytes_in_flight,
    check_device,
    check_shared_memory,
    explain_divergence,
)


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


@pytest.mark.parametrize("run", [do_train, do_eval_only])
def test_too_little_shared_memory_is_said_before_a_worker_dies(run, world_config, monkeypatch):
    cfg = world_config()
    cfg.dataloader.train.num_workers = cfg.dataloader.test.num_workers = 2
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match="and /dev/shm has 0 MB: .*--shm-size=1g .*num_workers"):
        run(cfg)


def batches(num_workers, count=6):
    sizes = [10, 30, 20, 40, 40, 40][:count]
    dataset = [dict(image=torch.zeros(n, dtype=torch.float16), name="a" * 99) for n in sizes]
    return DataLoader(dataset, batch_size=3, num_workers=num_workers, collate_fn=list)


def test_bytes_in_flight_are_of_the_largest_picture_in_all_batches():
    assert bytes_in_flight(batches(0)) == 0
    # Two batches of three pictures a worker, and that in hand; 30 numbers of two bytes.
    assert bytes_in_flight(batches(4)) == (4 * 2 + 1) * 3 * 60
    assert bytes_in_flight(batches(1, count=0)) == 0


def test_what_fits_into_shared_memory_passes(monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1620)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    check_shared_memory(batches(4))
    with pytest.raises(ValueError, match="--ipc=host"):
        check_shared_memory(batches(4), batches(1))
    monkeypatch.setattr(comm, "get_local_size", lambda: 2)
    with pytest.raises(ValueError, match="--ipc=host"):
        check_shared_memory(batches(4))


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
