"""The command line: overrides, torchrun, resume, --eval-only, --dry-run."""

import json
import os
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import train_net
from gridclip.distributed import LONGEST_WAIT
from gridclip.evaluation import read_results
from gridclip.modeling import GridCLIP
from gridclip.modeling.products import inner_products
from gridclip.settings import load_config
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


def run(*arguments, ranks=1, code=0):
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
    assert process.returncode == code, process.stdout[-4000:]
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


def test_processes_wait_longer_than_an_evaluation_takes(monkeypatch):
    """By torch's limit for NCCL, ten minutes, the others would stop while rank 0 evaluates."""
    waits = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("detectron2.utils.comm.create_local_process_group", lambda _: None)
    for name, value in dict(RANK=0, WORLD_SIZE=1, LOCAL_WORLD_SIZE=1, MASTER_PORT=0).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "localhost")

    def main(_):
        backend = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
        waits["torchrun"] = backend.options._timeout

    monkeypatch.setattr(train_net, "main", main)
    train_net.main_under_torchrun(None)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--config-file", "x", "--num-gpus", "8"])

    def launch(*_, timeout, **__):
        waits["launch"] = timeout

    monkeypatch.setattr("detectron2.engine.launch", launch)
    runpy.run_path(str(TRAIN_NET), run_name="__main__")
    assert waits == dict(torchrun=LONGEST_WAIT, launch=LONGEST_WAIT)
    assert LONGEST_WAIT.total_seconds() >= 3600


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


@pytest.mark.slow
def test_two_machines_by_detectron2s_options(config_file):
    config, alone = config_file("alone")
    run("--config-file", config, "--dry-run")
    config, together = config_file("together")
    url = f"file://{together.parent}/meeting"  # a port might be taken

    def machine(rank):
        where = (
            "--num-machines",
            "2",
            "--machine-rank",
            rank,
            "--num-gpus",
            "1",
            "--dist-url",
            url,
        )
        return run("--config-file", config, "--dry-run", *where)

    with ThreadPoolExecutor() as pool:
        printed, _ = pool.map(machine, range(2))
    assert "World size: 2" in printed
    for whole, *parts in zip(losses(alone), losses(together), losses(together, 1), strict=True):
        for name, value in whole.items():
            mean = sum(part[name] for part in parts) / 2
            assert mean == pytest.approx(value, abs=1e-4), name


@pytest.mark.slow
def test_output_folder_of_any_name(config_file, tmp_path):
    config, folder = config_file("run")
    folder.mkdir()  # where the config writes the losses
    output = tmp_path / "lauf=3 (neu), 'grün'"
    run("--config-file", config, f"train.output_dir={output}", "train.max_iter=1")
    assert read_results(output / "results.json")["iterations"] == 1
    again = ("--config-file", config, "--eval-only", f"train.output_dir={output}/again")
    run(*again, "MODEL.WEIGHTS", output / "model_final.pth")
    assert read_results(output / "again/results.json")["weights"] == str(output / "model_final.pth")


def refusal(*arguments):
    """The line that a refused run prints; it has no traceback."""
    printed = run(*arguments, code=1)
    assert "Traceback" not in printed
    lines = {line for line in printed.splitlines() if line.startswith("error: ")}
    assert len(lines) == 1, printed[-4000:]
    return lines.pop()


@pytest.mark.slow
def test_refusals_are_one_line(config_file):
    config, output = config_file("run")
    command = ("--config-file", config)
    assert refusal("--config-file", "none.py") == "error: No config at 'none.py'."
    for processes in ("1", "2"):
        assert refusal(*command, "--num-gpus", processes, "train.max_itr=5") == (
            "error: train.max_itr=5: there is no setting 'train.max_itr'; the nearest is "
            "train.max_iter."
        )
    assert not output.exists()
    assert "tiny.pt holds a CLIP model" in refusal(*command, "--eval-only")
    diverged = refusal(*command, "optimizer.lr=1e30", "lr_multiplier.warmup_length=0")
    assert diverged.startswith("error: training diverged at step 1:") and "(now 1e+30)" in diverged
    assert not (output / "results.json").exists()


@pytest.mark.slow
def test_slips_keep_their_traceback(tmp_path):
    (tmp_path / "slip.py").write_text("train = dict(seed=int('x'))\n")
    for ranks in ("1", "2"):
        printed = run("--config-file", tmp_path / "slip.py", "--num-gpus", ranks, code=1)
        assert "Traceback" in printed and "slip.py" in printed and "invalid literal" in printed


def raised(call, *args) -> Exception:
    with pytest.raises(Exception) as info:  # noqa: B017
        call(*args)
    return info.value


def test_what_the_package_raises_is_for_the_user():
    error = raised(load_config, "none.py")
    assert isinstance(error, FileNotFoundError) and train_net.is_refusal(error)


def test_what_a_slip_raises_keeps_its_traceback(tmp_path):
    # In a line of the package, by torch.
    error = raised(inner_products, torch.ones(2, 3), torch.ones(4, 5))
    assert isinstance(error, RuntimeError) and not train_net.is_refusal(error)
    # In a library below the package.
    (tmp_path / "config.py").write_text("train = dict(seed=int('x'))")
    error = raised(load_config, tmp_path / "config.py")
    assert isinstance(error, ValueError) and not train_net.is_refusal(error)
    # In the call of the package.
    assert not train_net.is_refusal(raised(GridCLIP))
    assert not train_net.is_refusal(ValueError("never raised"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["MODEL.WEIGHTS", "a b.pth"], {"init_checkpoint": "a b.pth"}),
        (["MODEL.WEIGHTS=clip://RN50"], {"init_checkpoint": "clip://RN50"}),
        (["MODEL.WEIGHTS", "it's=x.pth"], {"init_checkpoint": "it's=x.pth"}),
        (["MODEL.WEIGHTS", r"a\b\'c\\"], {"init_checkpoint": r"a\b\'c\\"}),
        (["MODEL.WEIGHTS", "3"], {"init_checkpoint": "3"}),
        (
            ["train.max_iter=3", "MODEL.WEIGHTS", "a.pth"],
            {"init_checkpoint": "a.pth", "max_iter": 3},
        ),
    ],
)
def test_overrides(given, expected):
    cfg = OmegaConf.create({"train": {}})
    assert load_config(cfg, train_net.translate_overrides(given)).train == expected


def test_bad_overrides_are_explained():
    with pytest.raises(SystemExit, match="needs a path"):
        train_net.translate_overrides(["MODEL.WEIGHTS"])
    with pytest.raises(SystemExit, match="key=value"):
        train_net.translate_overrides(["SOLVER.BASE_LR", "0.1"])
    with pytest.raises(SystemExit):
        train_net.parse_args([])
