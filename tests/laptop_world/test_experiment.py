import json

import pytest

from gridclip.text import TextEmbeddings
from laptop_world import experiment, reproduce
from laptop_world.grid import Plan, run_tasks
from laptop_world.record import ChangedError


def test_only_the_whole_grid_counts():
    def whole(*arguments):
        return experiment.is_whole_grid(reproduce.parse_args([*arguments]))

    assert whole() and whole("--jobs", "1", "--output", "elsewhere")
    assert not whole("--world", "dev")
    assert not whole("--seeds", "0", "1")
    assert not whole("--variants", "gridclip")
    assert not whole("--override", "train.max_iter=1")


def test_whole_grid_trains_other_lengths_with_the_first_seed(whole_grid):
    assert set(whole_grid.lengths) == {
        (variant, steps) for variant, lengths in experiment.LENGTHS.items() for steps in lengths
    }
    for (variant, steps), task in whole_grid.lengths.items():
        cfg = task.identity["config"]
        assert cfg["train"]["max_iter"] == steps and cfg["train"]["seed"] == 0
        assert cfg["lr_multiplier"]["warmup_length"] * steps == pytest.approx(50)
        assert task.needs == [f"{variant} preparation"]


def test_whole_grid_has_three_seeds_or_two(whole_grid):
    seeds = {}
    for variant, seed in whole_grid.runs:
        seeds.setdefault(variant, []).append(seed)
    assert set(seeds) == set(experiment.VARIANTS)
    assert all(
        found == [0, 1, 2][: experiment.FEWER_SEEDS.get(variant, 3)]
        for variant, found in seeds.items()
    )


def test_what_comes_before_what(whole_grid):
    """Each preparation after the one before it, ViLD's after the proposals of ViLD-text."""
    needs = {task.name: list(task.needs) for task in whole_grid.tasks}
    names = list(needs)
    assert all(names.index(need) < names.index(name) for name in names for need in needs[name])
    preparations = [name for name in names if name.endswith("preparation")]
    assert needs[preparations[0]] == [] and len(preparations) == 11
    for before, after in zip(preparations, preparations[1:], strict=False):
        assert before in needs[after]
    assert "classification_init pretraining" in needs["classification_init preparation"]
    assert needs["vild_text proposals"] == ["vild_text seed 0"]
    assert "vild_text proposals" in needs["vild preparation"]
    assert needs["vild_ensemble seed 1"] == ["vild_ensemble preparation"]
    assert needs["no_dense_scores seed 2"] == ["gridclip seed 2"]


def test_snakemake_plans_every_task(whole_grid, capfd):
    run_tasks(Plan(whole_grid.tasks, 1), whole_grid.folder, ["--dry-run", "--quiet", "reason"])
    printed = capfd.readouterr()
    listed = set((printed.out + printed.err).split())
    assert {task.name.replace(" ", "_") for task in whole_grid.tasks} <= listed
    assert not any(task.stamp.exists() for task in whole_grid.tasks)


def test_other_annotations_and_another_clip_are_refused(
    whole_grid, tmp_path, laptop_clip, monkeypatch
):
    whole_grid.tasks[0].open_record().write()
    arguments = ["--output", str(tmp_path / "out"), "--variants", "gridclip"]
    experiment.Grid(reproduce.parse_args(arguments))
    with pytest.raises(ChangedError, match=r"\(clip_sha256, config\.clip\.weights"):
        experiment.Grid(
            reproduce.parse_args([*arguments, "--override", f"clip.weights={laptop_clip}"])
        )
    file = tmp_path / "shapes/shapes_test_val.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "changed": True}))
    with pytest.raises(ChangedError, match=r"\(annotations_sha256\.shapes_test_val\.json\)"):
        experiment.Grid(reproduce.parse_args(arguments))


def test_text_embeddings_of_another_clip_are_refused(whole_grid, tmp_path, monkeypatch):
    cfg = whole_grid.config("gridclip", tmp_path, 0)[0]
    path = tmp_path / "text.safetensors"
    cfg.model.classifier.text_embeddings = str(path)
    experiment.check_text_embeddings(cfg)
    path.touch()

    class Other:
        clip_sha256 = "other"

    monkeypatch.setattr(TextEmbeddings, "load", lambda path: Other())
    with pytest.raises(ChangedError, match="made by another CLIP model"):
        experiment.check_text_embeddings(cfg)
