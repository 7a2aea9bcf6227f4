import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gridclip.evaluation import read_results
from laptop_world import experiment, reproduce
from laptop_world.shapes import generate_shapes


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "laptop_world.reproduce"]
        + ["--world", "dev", "--output", folder / "out", *arguments],
        cwd=experiment.ROOT,
        env={**os.environ, "DETECTRON2_DATASETS": str(folder), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder, *arguments):
    process = start(folder, *arguments)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.slow
def test_runs_once_summarises_and_refuses_another_config(tmp_path, laptop_clip):
    generate_shapes("dev", tmp_path / "shapes", train=24, val=16, size=64)
    variants = ["gridclip", "no_dense_scores"]
    arguments = ["--variants", *variants, "--seeds", "0", "1", "--jobs", "1"]
    arguments += ["--override", f"clip.weights={laptop_clip}"]
    arguments += ["dataloader.train.total_batch_size=2"]
    two_steps = [*arguments, "train.max_iter=2"]
    first = run(tmp_path, *two_steps)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "[5/5] no_dense_scores seed 1: done in" in first.stdout

    folder = tmp_path / "out/dev"
    files = [
        folder / f"{variant}/seed{seed}/results.json" for variant in variants for seed in (0, 1)
    ]
    values = [read_results(file)["metrics"]["bbox"]["AP"] for file in files[:2]]
    trained = read_results(files[0])["config"]["train"]["output_dir"]
    assert read_results(files[2])["weights"] == f"{trained}/model_final.pth"
    summary = json.loads((folder / "laptop_world.json").read_text())
    assert set(summary) == set(variants)
    assert {"AP", "AP50", "APr", "APc", "APf", "APr_shape"} <= set(summary["gridclip"])
    assert summary["gridclip"]["AP"] == {
        "mean": statistics.mean(values),
        "std": statistics.stdev(values),
        "n": 2,
        "values": values,
    }
    pairs = json.loads((folder / "laptop_world_differences.json").read_text())
    assert pairs["gridclip - no_dense_scores"]["AP"]["n"] == 2
    runs = json.loads((folder / "laptop_world_runs.json").read_text())
    assert set(runs["runs"]) == {
        f"{variant} seed {seed}" for variant in variants for seed in (0, 1)
    }
    assert set(runs["preparation_seconds"]) == {"gridclip preparation"}
    assert "All variants have all seeds." in first.stdout
    assert (folder / "laptop_world.png").is_file()

    before = [file.stat().st_mtime_ns for file in files]
    assert "was done in" in run(tmp_path, *two_steps).stdout
    assert [file.stat().st_mtime_ns for file in files] == before

    other = run(tmp_path, *arguments, "train.max_iter=3")
    assert other.returncode == 1
    assert "config.train.max_iter" in other.stderr and "another --output" in other.stderr
    assert [file.stat().st_mtime_ns for file in files] == before


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_checkpoint(tmp_path, laptop_clip):
    generate_shapes("dev", tmp_path / "shapes", train=24, val=16, size=64)
    arguments = ["--variants", "gridclip", "--seeds", "0", "--jobs", "1"]
    arguments += ["--override", f"clip.weights={laptop_clip}", "train.max_iter=30"]
    arguments += ["train.checkpointer.period=2", "dataloader.train.total_batch_size=2"]
    folder = tmp_path / "out/dev/gridclip/seed0"

    killed = start(tmp_path, *arguments)
    deadline = time.monotonic() + 300
    while not (folder / "last_checkpoint").is_file():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    assert not (folder / "results.json").exists()

    resumed = run(tmp_path, *arguments)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "gridclip preparation: was done in" in resumed.stdout
    assert re.search(r"Starting training from iteration [1-9]", (folder / "log.txt").read_text())
    runs = json.loads((tmp_path / "out/dev/laptop_world_runs.json").read_text())["runs"]
    assert runs["gridclip seed 0"]["seconds"] > 0


def test_what_failed_is_listed_with_its_log_after_what_is_complete(monkeypatch, capsys):
    class NoGrid:
        def __init__(self, args):
            self.tasks, self.runs, self.folder = [None] * 3, {}, Path("nowhere")

    reasons = {"gridclip seed 0": "log: gridclip/seed0/log.txt", "b": "it needs gridclip seed 0"}
    monkeypatch.setattr(reproduce, "find_spec", lambda name: True)
    monkeypatch.setattr(reproduce, "generate_world", lambda world, jobs: None)
    monkeypatch.setattr(reproduce, "Grid", NoGrid)
    monkeypatch.setattr(reproduce, "run_tasks", lambda *arguments: reasons)
    with pytest.raises(SystemExit) as error:
        reproduce.main(["--variants", "gridclip", "--seeds", "0", "1"])
    lines = str(error.value).splitlines()
    assert lines[0] == "error: 2 of 3 are not complete:"
    assert lines[1:3] == [f"{name}: {reason}" for name, reason in reasons.items()]
    assert capsys.readouterr().out == "Not run, by variant the seeds:\n  gridclip: 0 1\n"


def test_what_follows_snakemake_is_handed_on():
    args = reproduce.parse_args(
        ["--jobs", "3", "--snakemake", "--executor", "slurm", "--jobs", "9"]
    )
    assert args.jobs == 3 and args.snakemake == ["--executor", "slurm", "--jobs", "9"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "0"], "at least 1"),
        (["--variants", "nothing"], "invalid choice"),
        (["--lengths", "--variants", "gridclip", "closed_set"], "--lengths is of gridclip, "),
        (["--device", "tpu"], "invalid choice"),
        *[
            (["--publish", *part], "--publish is of the whole experiment")
            for part in (
                ["--world", "dev"],
                ["--seeds", "0"],
                ["--variants", "gridclip"],
                ["--lengths"],
                ["--override", "train.max_iter=1"],
            )
        ],
    ],
)
def test_arguments_are_checked(capsys, arguments, message):
    with pytest.raises(SystemExit):
        reproduce.parse_args(arguments)
    assert message in capsys.readouterr().err


def test_seeds_are_five_and_one_of_other_lengths():
    assert reproduce.parse_args([]).seeds == [0, 1, 2, 3, 4]
    assert reproduce.parse_args(["--lengths"]).seeds == [0]
    assert reproduce.parse_args(["--lengths", "--seeds", "2", "3", "2"]).seeds == [2, 3]
