"""The command line: overrides, torchrun, resume, --eval-only, --dry-run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.config import LazyConfig

import train_net
from gridclip.evaluation import read_results
from world import draw_world

ROOT = Path(__file__).parents[1]
TRAIN_NET = ROOT / "projects/GridCLIP/train_net.py"

CONFIG = """
import json
import os
from pathlib import Path

from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from world import tiny_config

cfg = tiny_config(Path({world!r}), Path({clip!r}), Path({output!r}), max_iter=6)
model, clip, data, dataloader = cfg.model, cfg.clip, cfg.data, cfg.dataloader
train, optimizer, lr_multiplier = cfg.train, cfg.optimizer, cfg.lr_multiplier

write_metrics = SimpleTrainer._write_metrics


def record(trainer, loss_dict, *args, **kwargs):
    losses = {{name: loss.item() for name, loss in loss_dict.items()}}
    with open(f"{{cfg.train.output_dir}}/losses_of_rank_{{comm.get_rank()}}.jsonl", "a") as file:
        file.write(json.dumps(losses) + "\\n")
    write_metrics(trainer, loss_dict, *args, **kwargs)


SimpleTrainer._write_metrics = record
"""


@pytest.fixture
def config_file(tmp_path, tiny_clip):
    """Makes a config file on a drawn world; the output folder is named beside it."""
    draw_world(tmp_path / "world")

    def make(output):
        path = tmp_path / f"{output}.py"
        path.write_text(
            CONFIG.format(
                world=str(tmp_path / "world"), clip=str(tiny_clip), output=str(tmp_path / output)
            )
        )
        return path, tmp_path / output

    return make


def run(*arguments, ranks=1):
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
        launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    process = subprocess.run(
        [*launcher, TRAIN_NET, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.returncode == 0, process.stdout[-4000:]
    return process.stdout


def losses(output, rank=0):
    lines = (output / f"losses_of_rank_{rank}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_two_ranks_give_one_process_losses(config_file):
    config, alone = config_file("alone")
    run("--config-file", config)
    config, together = config_file("together")
    run("--config-file", config, ranks=2)
    expected, parts = losses(alone), (losses(together, 0), losses(together, 1))
    assert len(expected) == len(parts[0]) == 6
    assert parts[0] != parts[1]
    for step, (whole, first, second) in enumerate(zip(expected, *parts, strict=True)):
        for name, value in whole.items():
            mean = (first[name] + second[name]) / 2
            assert mean == pytest.approx(value, abs=1e-4), (step, name)
    a, b = (read_results(output / "results.json") for output in (alone, together))
    assert a["protocol"]["images"] == b["protocol"]["images"] == 12


@pytest.mark.slow
def test_resume_and_eval_only_by_command(config_file):
    config, output = config_file("run")
    run("--config-file", config, "train.max_iter=3", "train.checkpointer.period=2")
    run("--config-file", config, "--resume", "train.max_iter=6")
    assert len(losses(output)) == 6
    weights = output / "model_final.pth"
    printed = run("--config-file", config, "--eval-only", "MODEL.WEIGHTS", weights)
    assert "AP_novel" in printed
    assert read_results(output / "results.json")["weights"] == str(weights)


@pytest.mark.slow
def test_dry_run_by_command(config_file):
    config, output = config_file("run")
    printed = run("--config-file", config, "--dry-run", "train.max_iter=100000")
    assert "Dry run: losses" in printed
    assert not list(output.glob("*.pth")) and len(losses(output)) == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["MODEL.WEIGHTS", "a b.pth"], {"train": {"init_checkpoint": "a b.pth"}}),
        (["MODEL.WEIGHTS=clip://RN50"], {"train": {"init_checkpoint": "clip://RN50"}}),
        (["MODEL.WEIGHTS", "it's=x.pth"], {"train": {"init_checkpoint": "it's=x.pth"}}),
        (
            ["train.max_iter=3", "MODEL.WEIGHTS", "a.pth"],
            {"train": {"init_checkpoint": "a.pth", "max_iter": 3}},
        ),
    ],
)
def test_overrides(given, expected):
    from omegaconf import OmegaConf

    cfg = OmegaConf.create({"train": {}})
    LazyConfig.apply_overrides(cfg, train_net.translate_overrides(given))
    assert cfg == expected


def test_bad_overrides_are_explained():
    with pytest.raises(SystemExit, match="needs a path"):
        train_net.translate_overrides(["MODEL.WEIGHTS"])
    with pytest.raises(SystemExit, match="key=value"):
        train_net.translate_overrides(["SOLVER.BASE_LR", "0.1"])
    with pytest.raises(SystemExit):
        train_net.parse_args([])
