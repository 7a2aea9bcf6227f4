import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gridclip.data import open_dataset
from gridclip.evaluation import OpenVocabularyEvaluator, read_results, write_results
from laptop_world import experiment, reproduce
from laptop_world.shapes import generate_shapes
from laptop_world.tables import laptop_time_table


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
    variants = ["slow_backbone", "grid_level_alone"]
    arguments = ["--variants", *variants, "--seeds", "0", "1", "--jobs", "1"]
    arguments += ["--override", f"clip.weights={laptop_clip}"]
    arguments += ["dataloader.train.total_batch_size=2"]
    two_steps = [*arguments, "train.max_iter=2"]
    first = run(tmp_path, *two_steps)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "[5/5] grid_level_alone seed 1: done in" in first.stdout

    folder = tmp_path / "out/dev"
    files = [
        folder / f"{variant}/seed{seed}/results.json" for variant in variants for seed in (0, 1)
    ]
    values = [read_results(file)["metrics"]["bbox"]["AP"] for file in files[:2]]
    trained = read_results(files[0])["config"]["train"]["output_dir"]
    assert read_results(files[2])["weights"] == f"{trained}/model_final.pth"
    summary = json.loads((folder / "laptop_world.json").read_text())
    assert set(summary) == set(variants)
    assert {"AP", "AP50", "APr", "APc", "APf", "APr_shape"} <= set(summary["slow_backbone"])
    assert summary["slow_backbone"]["AP"] == {
        "mean": statistics.mean(values),
        "std": statistics.stdev(values),
        "n": 2,
    }
    runs = json.loads((folder / "laptop_world_runs.json").read_text())
    assert set(runs["runs"]) == {f"{variant}/seed{seed}" for variant in variants for seed in (0, 1)}
    assert runs["runs"]["slow_backbone/seed1"]["config"]["train"]["seed"] == 1
    assert set(runs["preparation_seconds"]) == {"slow_backbone preparation"}
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
    arguments = ["--variants", "slow_backbone", "--seeds", "0", "--jobs", "1"]
    arguments += ["--override", f"clip.weights={laptop_clip}", "train.max_iter=30"]
    arguments += ["train.checkpointer.period=2", "dataloader.train.total_batch_size=2"]
    folder = tmp_path / "out/dev/slow_backbone/seed0"

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
    assert "slow_backbone preparation: was done in" in resumed.stdout
    assert re.search(r"Starting training from iteration [1-9]", (folder / "log.txt").read_text())
    runs = json.loads((tmp_path / "out/dev/laptop_world_runs.json").read_text())["runs"]
    assert runs["slow_backbone/seed0"]["seconds"] > 0


def test_what_failed_is_listed_with_its_log(tmp_path, monkeypatch):
    class NoGrid:
        def __init__(self, args):
            self.tasks, self.folder = [None] * 3, tmp_path

    reasons = {"gridclip seed 0": "log: gridclip/seed0/log.txt", "b": "it needs gridclip seed 0"}
    monkeypatch.setattr(reproduce, "find_spec", lambda name: True)
    monkeypatch.setattr(reproduce, "generate_world", lambda world, jobs: None)
    monkeypatch.setattr(reproduce, "Grid", NoGrid)
    monkeypatch.setattr(reproduce, "run_tasks", lambda *arguments: reasons)
    with pytest.raises(SystemExit) as error:
        reproduce.main([])
    lines = str(error.value).splitlines()
    assert lines[0] == "error: 2 of 3 are not complete:"
    assert lines[1:3] == [f"{name}: {reason}" for name, reason in reasons.items()]


def test_what_follows_snakemake_is_handed_on():
    args = reproduce.parse_args(
        ["--jobs", "3", "--snakemake", "--executor", "slurm", "--jobs", "9"]
    )
    assert args.jobs == 3 and args.snakemake == ["--executor", "slurm", "--jobs", "9"]


def test_arguments_are_checked(capsys, monkeypatch, tmp_path):
    for arguments, message in (
        (["--jobs", "0"], "at least 1"),
        (["--variants", "nothing"], "invalid choice"),
        (["--variants", "vild"], "vild"),
        (["--variants", "no_dense_scores"], "add gridclip"),
    ):
        with pytest.raises(SystemExit):
            reproduce.parse_args(arguments)
        assert message in capsys.readouterr().err


def test_curves_count_what_comes_before_a_training(whole_grid, tmp_path):
    """GridCLIP and ViLD: the teacher's embeddings; ViLD: the proposals, too."""
    for task in whole_grid.tasks:
        record = task.open_record()
        record.seconds = 60.0
        record.write()
    shapes = tmp_path / "shapes"
    data = open_dataset(json=shapes / "shapes_test_val.json", images=shapes)
    protocol = OpenVocabularyEvaluator(data).protocol()
    for task in [*whole_grid.runs.values(), *whole_grid.lengths.values()]:
        folder, cfg = Path(task.folder), task.identity["config"]
        seed, steps = cfg["train"]["seed"], cfg["train"]["max_iter"]
        metrics = {name: 10.0 * seed for name in ("AP", "APr", "APf")}
        write_results(folder, {"bbox": metrics}, protocol=protocol, data=data, num_images=4)
        (folder / "metrics.json").write_text(json.dumps({"iteration": 19, "time": 60 / steps}))
    reproduce.write_curves(whole_grid, tmp_path)
    curves = json.loads((tmp_path / "laptop_world_time.json").read_text())
    before = {name: curve["preparation_minutes"] for name, curve in curves.items()}
    assert before == {"gridclip": 1, "vild_text": 0, "vild": 2, "vild_ensemble": 2}
    points = {point["steps"]: point for point in curves["gridclip"]["points"]}
    assert list(points) == [125, 250, 500, 1000, 2000, 4000]
    assert points[1000]["n"] == 3 and points[1000]["AP"] == 10 and points[125]["AP"] == 0
    assert {round(point["minutes"], 6) for point in points.values()} == {1}
    assert (tmp_path / "laptop_world_time.png").is_file()
    assert laptop_time_table(curves).count("\n| GridCLIP | ") == 6
