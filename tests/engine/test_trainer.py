"""Steps that are not finite, clipping and mixed precision, of a model that does as it is told."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase, hooks
from detectron2.solver import LRMultiplier
from detectron2.structures import Boxes, Instances
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gridclip.engine.failures import SKIPPED_STEPS, bad_inputs
from gridclip.engine.trainer import MOST_IN_A_ROW, Trainer, clip_gradients
from ranks import run_ranks

NAN, INF = math.nan, math.inf


class Overflow(torch.autograd.Function):
    """The identity, whose gradient is not finite."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * INF


class Obedient(nn.Module):
    """A batch's "wrong" says what goes wrong in its step: "loss", "gradient", "boxes" or None."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.Linear(4, 1)

    def forward(self, batch):
        x = torch.stack([inputs["image"] for inputs in batch])
        wrong = {inputs.get("wrong") for inputs in batch}
        y = self.linear(self.norm(x)).square().mean()
        if "boxes" in wrong:
            raise AssertionError("bad box: x1 larger than x2")
        if "slip" in wrong:
            raise AssertionError("some shape")
        if "gradient" in wrong:
            y = Overflow.apply(y)
        return {"loss_a": y, "loss_b": y * (NAN if "loss" in wrong else 0.5)}


def batches(*wrong):
    """Of two pictures; the picture's id is its place."""
    generator = torch.Generator().manual_seed(3)
    return [
        [
            {"image": torch.randn(4, generator=generator), "image_id": 2 * i + j, "wrong": w}
            for j in range(2)
        ]
        for i, w in enumerate(wrong)
    ]


@pytest.fixture
def make(tmp_path):
    def trainer(data, **settings):
        torch.manual_seed(0)
        model = Obedient()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=settings.pop("fused", None))
        return Trainer(model, data, optimizer, lr=0.1, output_dir=str(tmp_path), **settings)

    return trainer


class Snapshots(HookBase):
    """What is kept of each step: weights, buffers and the optimizer's state."""

    def __init__(self):
        self.states, self.skipped, self.scalars = [], [], []

    def after_step(self):
        state = {**self.trainer.model.state_dict()}
        for i, values in self.trainer.optimizer.state_dict()["state"].items():
            state |= {f"{i}.{name}": value for name, value in values.items()}
        self.states.append({k: v.clone() for k, v in state.items()})
        self.skipped.append(self.trainer.skipped)
        latest = self.trainer.storage.latest()
        self.scalars.append({name: value for name, (value, _) in latest.items()})


def train(trainer, steps):
    snapshots = Snapshots()
    trainer.register_hooks([snapshots])
    trainer.train(0, steps)
    return snapshots


def written(tmp_path):
    lines = (tmp_path / SKIPPED_STEPS).read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("wrong", ["loss", "gradient", "boxes"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_step_that_is_not_finite_changes_nothing(make, tmp_path, wrong, precision):
    seen = train(make(batches(None, wrong, None), precision=precision), 3)
    assert seen.skipped == [False, True, False]
    before, after, last = seen.states
    assert before.keys() == after.keys() and "norm.running_mean" in before and "0.step" in before
    for name, value in before.items():
        assert torch.equal(after[name], value), name
        assert not torch.equal(last[name], value), name
    (line,) = written(tmp_path)
    assert (line["iteration"], line["rank"], line["image_ids"]) == (1, 0, [2, 3])
    said = {
        "loss": "loss_b is nan",
        "gradient": "gradient's norm is",
        "boxes": "predictions are not finite",
    }
    assert said[wrong] in line["what"] and line["bad_inputs"] == []
    assert [scalars["skipped_steps"] for scalars in seen.scalars] == [0, 1, 1]


def test_the_schedule_goes_on(make):
    trainer = make(batches(None, "loss", None))
    schedule = hooks.LRScheduler(
        scheduler=LRMultiplier(trainer.optimizer, LinearParamScheduler(1.0, 0.0), 4)
    )
    trainer.register_hooks([schedule])
    seen = train(trainer, 3)
    assert [scalars["lr"] for scalars in seen.scalars] == pytest.approx([0.1, 0.075, 0.05])


def test_slips_are_no_numbers(make, tmp_path):
    with pytest.raises(AssertionError, match="some shape"):
        make(batches("slip")).train(0, 1)
    assert not (tmp_path / SKIPPED_STEPS).exists()


def stopped(trainer, steps=20):
    with pytest.raises(FloatingPointError) as info:
        trainer.train(0, steps)
    return str(info.value)


def test_a_few_in_a_row_are_borne_and_more_stop_the_run(make, tmp_path):
    few = ["loss"] * MOST_IN_A_ROW
    trainer = make(batches(None, *few, None, *few, None))
    trainer.train(0, 2 * MOST_IN_A_ROW + 3)
    assert trainer.iter == 2 * MOST_IN_A_ROW + 3 and len(written(tmp_path)) == 2 * MOST_IN_A_ROW
    message = stopped(make(batches(None, *few, "boxes")))
    assert message.startswith("training diverged at step 1: earlier steps were finite")
    assert "predictions are not finite (pictures 2, 3, 4" in message
    assert SKIPPED_STEPS in message and message.endswith("; lower optimizer.lr (now 0.1)")


def test_each_reason_has_its_name(make):
    many = ["loss"] * (MOST_IN_A_ROW + 1)
    message = stopped(make(batches(None, *many), precision=torch.float16))
    assert "training stopped at steps 1 to 6" in message and "dtype=bfloat16" in message
    message = stopped(make(batches(*many)))
    assert "no step has been finite" in message and "train.init_checkpoint" in message
    data = batches(None, *many)
    data[4][1].update(image=torch.tensor([0.0, NAN, 0.0, 0.0]), file_name="a.jpg")
    message = stopped(make(data))
    assert "training stopped" in message and "not finite in the data: a.jpg: image" in message
    trainer = make(batches(*[None] * 8, *many))
    forward, grown = trainer.model.forward, iter([1, 1, 1, 9, 90, 900, 900, 900])
    trainer.model.forward = lambda x: {k: v * next(grown, 1) for k, v in forward(x).items()}
    assert "diverged at step 8: the total loss had grown from" in stopped(trainer)


@pytest.mark.parametrize("weight", [NAN, INF, 1e9])
def test_lost_weights_stop_the_run_at_once(make, tmp_path, weight):
    trainer = make(batches(*["boxes"] * 10))
    nn.init.constant_(trainer.model.linear.weight, weight)
    assert "training diverged at step 0: parameters are " in stopped(trainer)
    assert len(written(tmp_path)) == 1


def test_an_assertion_on_lost_weights_is_divergence(make):
    trainer = make(batches("slip"))
    nn.init.constant_(trainer.model.linear.weight, NAN)
    assert "diverged at step 0: parameters are not finite" in stopped(trainer)


def test_bad_boxes_of_the_data_are_found():
    def inputs(*boxes):
        found = Instances((8, 8), gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)))
        return {"file_name": "a.jpg", "image": torch.zeros(3, 8, 8).byte(), "instances": found}

    assert bad_inputs([inputs((0.0, 0.0, 4.0, 4.0), (1.0, 1.0, 1.0, 2.0)), inputs()]) == []
    for box in ((0.0, 0.0, NAN, 4.0), (0.0, 0.0, INF, 4.0), (4.0, 0.0, 0.0, 4.0)):
        assert bad_inputs([inputs(box)]) == ["a.jpg: gt_boxes"]
    store = {"file_name": "b.jpg", "image_embeddings": torch.tensor([[1.0, NAN]])}
    assert bad_inputs([store]) == ["b.jpg: image_embeddings"]


def test_float16s_own_skipped_steps_are_normal(make, tmp_path):
    """A scale of 2^16 is halved until the gradient fits."""
    trainer = make(batches(*[None] * 12), precision=torch.float16)
    forward = trainer.model.forward
    trainer.model.forward = lambda x: {k: 300.0 * v.float() for k, v in forward(x).items()}
    seen = train(trainer, 12)
    assert seen.skipped.index(False) > MOST_IN_A_ROW  # one after the other, and the run goes on
    assert seen.scalars[-1]["overflows"] == sum(seen.skipped)
    assert all(s["skipped_steps"] == 0 for s in seen.scalars)
    assert seen.scalars[1]["loss_scale"] == 2.0**15
    assert not (tmp_path / SKIPPED_STEPS).exists()


def test_a_gradient_that_no_scale_mends_stops_float16(make, tmp_path):
    trainer = make(batches(*["gradient"] * 40), precision=torch.float16)
    assert "the gradient's norm is" in stopped(trainer, 40)
    assert trainer.iter == 16 + MOST_IN_A_ROW  # from 2^16 to 1


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("limit", [0.01, None])
def test_clipping_sees_the_gradient_without_its_scale(make, fused, limit):
    """The clipped gradient and the step are the same with a loss scale of 65,536 and without."""
    found = {}
    for scaled in (False, True):
        trainer = make(batches(None), clip_grad_norm=limit, fused=fused)
        trainer.grad_scaler = torch.amp.GradScaler("cpu", enabled=scaled)
        trainer.optimizer.register_step_post_hook(
            lambda optimizer, *_: found.setdefault("norms", []).append(
                clip_gradients(optimizer, None).item()
            )
        )
        seen = train(trainer, 1)
        found[scaled] = seen.states[0], seen.scalars[0]["grad_norm"]
        assert not trainer.skipped
    norms, whole = found["norms"], found[True][1]
    assert norms[0] == pytest.approx(norms[1]) == pytest.approx(limit or whole, rel=1e-3)
    assert whole == pytest.approx(found[False][1]) and whole > 0.02
    for name, value in found[False][0].items():
        torch.testing.assert_close(found[True][0][name], value, msg=name)


def test_counts_and_scale_survive_a_resume(make):
    trainer = make(batches("gradient", "loss", *[None] * 4), precision=torch.float16)
    before = train(trainer, 6).scalars[-1]
    state = copy.deepcopy(trainer.state_dict())
    again = make(batches(None), precision=torch.float16)
    again.load_state_dict(state)
    (after,) = train(again, 1).scalars
    for name in ("skipped_steps", "overflows", "loss_scale"):
        assert after[name] == before[name] > 0, name
    assert after["loss_scale"] < 2.0**16
    del state["grad_scaler"], state["counts"]  # of detectron2's own trainer
    make(batches(None), precision=torch.float16).load_state_dict(state)


def test_a_resumed_run_forgets_what_it_repeats(make, tmp_path):
    trainer = make(batches("loss", None, "loss"))
    trainer.train(0, 3)
    trainer.skipped_steps.forget(2)
    assert [line["iteration"] for line in written(tmp_path)] == [0]
    trainer.skipped_steps.forget(0)
    assert written(tmp_path) == []


def _train_on_rank(folder, wrong):
    rank = torch.distributed.get_rank()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = batches(*[x if rank == 1 else None for x in wrong])
    for step in data:
        for inputs in step:
            inputs["image_id"] += 100 * rank
    model = DistributedDataParallel(Obedient(), broadcast_buffers=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    trainer = Trainer(model, data, optimizer, lr=0.1, output_dir=str(folder))
    seen, error = Snapshots(), None
    trainer.register_hooks([seen])
    try:
        trainer.train(0, len(data))
    except FloatingPointError as stopped:
        error = str(stopped)
    states = [
        {k: v.tolist() for k, v in s.items() if "norm.running" not in k and "num_batches" not in k}
        for s in seen.states
    ]
    return seen.skipped, states, error


@pytest.fixture
def two_ranks(monkeypatch):
    """Gives both ranks' skipped steps, states after each step and the error, if one ended them."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # they import this file
    return lambda folder, wrong: run_ranks(2, folder, _train_on_rank, folder, wrong, method="spawn")


def test_all_ranks_skip_what_is_not_finite_on_one(two_ranks, tmp_path):
    wrong = [None, "loss", None, "boxes", None, "gradient", None]
    (skipped, states, error), other = two_ranks(tmp_path, wrong)
    assert error is None and skipped == [x is not None for x in wrong] == other[0]
    assert states == other[1]
    for i, step in enumerate(skipped[1:], 1):
        assert (states[i] == states[i - 1]) == step
    lines = written(tmp_path)
    # A gradient is that of both ranks; the rest is rank 1's alone.
    assert [(x["iteration"], x["rank"]) for x in lines] == [(1, 1), (3, 1), (5, 0), (5, 1)]
    assert lines[0]["image_ids"] == [102, 103] and lines[2]["image_ids"] == [10, 11]


def test_all_ranks_stop_together(two_ranks, tmp_path):
    (_, _, error), other = two_ranks(tmp_path, [None, *["loss"] * 9])
    assert error == other[2] and "diverged at step 1:" in error and "pictures 102, 103" in error
    assert len(written(tmp_path)) == MOST_IN_A_ROW + 1
