import json
from statistics import mean, stdev

import pytest
from detectron2.config import LazyConfig

from benchmark import amp
from world import tiny_config


@pytest.fixture
def measure(world, tiny_clip, tmp_path):
    """Runs the command with further arguments on the drawn world; returns its record."""
    cfg = tiny_config(world, tiny_clip, tmp_path / "unused", eval_period=0, log_period=1)
    LazyConfig.save(cfg, str(tmp_path / "tiny.yaml"))

    def run(arguments):
        files = f"--config-file {tmp_path}/tiny.yaml --json {tmp_path}/amp.json"
        amp.main(f"{files} --output {tmp_path}/runs --steps 2 {arguments}".split())
        return json.loads((tmp_path / "amp.json").read_text())["amp"]

    return run


def test_all_precisions_and_seeds_are_trained_once(measure, monkeypatch):
    record = measure("--seeds 0 1")
    assert record["steps"] == 2
    runs = {(run["precision"], run["seed"]): run for run in record["runs"]}
    assert list(runs) == [(p, s) for s in (0, 1) for p in amp.PRECISIONS]
    for run in runs.values():
        assert run["metrics"]["AP"] is not None and run["diverged"] is None
        assert run["environment"]["commit"] and run["environment"]["processor"]
        assert run["seconds"] > 0 and run["total_loss"] > 0
    own = record["summary"]["bfloat16"]["AP"]
    values = [runs["bfloat16", seed]["metrics"]["AP"] for seed in (0, 1)]
    assert own["values"] == {"0": values[0], "1": values[1]}
    assert own["mean"] == pytest.approx(mean(values))
    assert record["AP"]["bfloat16"] == own["mean"]
    assert own["std"] == pytest.approx(stdev(values))
    assert own["difference"]["values"]["1"] == pytest.approx(
        values[1] - runs["float32", 1]["metrics"]["AP"]
    )
    assert record["summary"]["float32"]["AP"]["difference"]["mean"] == 0

    monkeypatch.setattr(amp, "do_train", lambda *_, **__: pytest.fail("a finished run runs again"))
    assert measure("--seeds 0 1") == record


def test_divergence_is_an_outcome(measure):
    diverges = "--override optimizer.lr=1e30 train.clip_grad_norm=null train.max_iter=9"
    record = measure(f"--seeds 0 --steps 9 --precisions float32 {diverges}")
    (run,) = record["runs"]
    assert run["metrics"] is None and "training diverged at step" in run["diverged"]
    assert run["skipped_steps"] > 0
    assert record["summary"]["float32"]["diverged"] == 1
    assert record["summary"]["float32"]["AP"]["mean"] is None


def test_another_config_is_refused(measure):
    measure("--seeds 0 --precisions float32")
    with pytest.raises(ValueError, match="seed0 has a run of another config: give another"):
        measure("--seeds 0 --precisions float32 --override optimizer.lr=0.5")
