import json
import os
import statistics
import subprocess
import sys

import pytest

from gridclip.evaluation import read_results, write_results
from laptop_world import reproduce
from laptop_world.shapes import generate_shapes
from laptop_world.tables import laptop_time_table


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "laptop_world.reproduce"]
        + ["--world", "dev", "--output", folder / "out", *arguments],
        cwd=reproduce.ROOT,
        env={**os.environ, "DETECTRON2_DATASETS": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


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


def test_only_the_whole_grid_counts():
    def whole(*arguments):
        return reproduce.is_whole_grid(reproduce.parse_args([*arguments]))

    assert whole() and whole("--jobs", "1", "--output", "elsewhere")
    assert not whole("--world", "dev")
    assert not whole("--seeds", "0", "1")
    assert not whole("--variants", "gridclip")
    assert not whole("--override", "train.max_iter=1")


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


@pytest.fixture
def whole_grid(tmp_path, laptop_clip, monkeypatch):
    """Of a tiny world; nothing is run."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    generate_shapes("test", tmp_path / "shapes", train=4, val=4, size=32)
    return reproduce.Grid(reproduce.parse_args(["--output", str(tmp_path / "out")]))


def test_whole_grid_trains_other_lengths_with_the_first_seed(whole_grid):
    assert set(whole_grid.lengths) == {
        (variant, steps) for variant, lengths in reproduce.LENGTHS.items() for steps in lengths
    }
    for (variant, steps), task in whole_grid.lengths.items():
        cfg = task.record.identity["config"]
        assert cfg["train"]["max_iter"] == steps and cfg["train"]["seed"] == 0
        assert cfg["lr_multiplier"]["warmup_length"] * steps == pytest.approx(50)
        assert task.needs == [f"{variant} preparation"]


def test_whole_grid_has_three_seeds_or_two(whole_grid):
    seeds = {}
    for variant, seed in whole_grid.runs:
        seeds.setdefault(variant, []).append(seed)
    assert set(seeds) == set(reproduce.VARIANTS)
    assert all(
        found == [0, 1, 2][: reproduce.FEWER_SEEDS.get(variant, 3)]
        for variant, found in seeds.items()
    )


def test_curves_count_what_comes_before_a_training(whole_grid, tmp_path):
    """GridCLIP and ViLD: the teacher's embeddings; ViLD: the proposals, too."""
    for task in whole_grid.tasks:
        task.record.seconds = 60.0
    for task in [*whole_grid.runs.values(), *whole_grid.lengths.values()]:
        folder, cfg = task.log_file.parent, task.record.identity["config"]
        folder.mkdir(parents=True)
        seed, steps = cfg["train"]["seed"], cfg["train"]["max_iter"]
        metrics = {name: 10.0 * seed for name in ("AP", "APr", "APf")}
        write_results(folder, {"bbox": metrics}, dataset_name="shapes_test_val", num_images=4)
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
