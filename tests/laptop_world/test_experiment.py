import json
import shutil
from pathlib import Path

import pytest
from detectron2.config import LazyConfig

from gridclip.text import TextEmbeddings
from laptop_world import experiment, reproduce
from laptop_world.experiment import CURVES, EVALUATED, LENGTHS, Run
from laptop_world.grid import Plan, run_tasks
from laptop_world.record import ChangedError


@pytest.fixture(scope="module")
def whole(make_grid):
    return make_grid()


@pytest.fixture(scope="module")
def lengths(make_grid):
    return make_grid("--lengths")


def needs_of(grid):
    return {task.name: list(task.needs) for task in grid.tasks}


def test_every_row_has_every_seed(whole):
    assert set(whole.runs) == {
        Run(variant, seed) for variant in experiment.available_variants() for seed in range(5)
    }


def test_what_is_needed_comes_before(whole, lengths):
    for grid in (whole, lengths):
        needs, names = needs_of(grid), [task.name for task in grid.tasks]
        assert len(names) == len(set(names))
        assert all(names.index(need) < names.index(name) for name in names for need in needs[name])


def test_each_preparation_comes_after_the_one_before_it(whole):
    needs = needs_of(whole)
    preparations = [name for name in needs if name.endswith("preparation")]
    trained = [name for name in experiment.available_variants() if name not in EVALUATED]
    assert {f"{name} preparation" for name in trained} == set(preparations)
    for before, after in zip(preparations, preparations[1:], strict=False):
        assert before in needs[after]
    assert preparations[-2:] == ["vild preparation", "vild_ensemble preparation"]
    assert "classification_init pretraining" in needs["classification_init preparation"]
    assert needs["vild_text proposals"] == ["vild_text seed 0"]
    assert "vild_text proposals" in needs["vild preparation"]
    assert needs["vild_ensemble seed 1"] == ["vild_ensemble preparation"]
    assert needs["no_dense_scores seed 2"] == ["gridclip seed 2"]


def test_what_a_part_needs_is_added_once(make_grid):
    grid = make_grid("--variants", "vild", "no_dense_scores", "--seeds", "3", "4")
    added = [*asked("gridclip", 3, 4), Run("vild_text", 0)]
    assert set(grid.runs) == {*asked("vild", 3, 4), *asked("no_dense_scores", 3, 4), *added}
    assert [name for name in needs_of(grid) if "proposals" in name] == ["vild_text proposals"]


def asked(variant, *seeds):
    return [Run(variant, seed) for seed in seeds]


def test_evaluations_read_the_weights_of_the_same_seed_and_length(make_grid, monkeypatch):
    """Stood in by a config that is there: another row may lack its own."""
    monkeypatch.setitem(CURVES, "no_dense_scores", ("no_dense_scores",))
    monkeypatch.setattr(reproduce, "CURVES", CURVES)
    grid = make_grid("--lengths", "--variants", "no_dense_scores", "--seeds", "1")
    steps = LENGTHS["gridclip"]
    assert set(grid.runs) == {
        Run(variant, 1, n) for variant in ("gridclip", "no_dense_scores") for n in steps
    }
    for n in steps:
        evaluation = grid.runs[Run("no_dense_scores", 1, n)]
        train = evaluation.identity["config"]["train"]
        assert evaluation.needs == [f"gridclip seed 1 steps {n}"]
        assert train["init_checkpoint"] == f"OUTPUT/gridclip/steps{n}/seed1/model_final.pth"
        assert train["max_iter"] == n and "--eval-only" in evaluation.command


def test_lengths_are_trained_with_the_first_seed_and_the_same_warmup(lengths):
    trained = {run.training.variant for run in lengths.runs}
    assert {run for run in lengths.runs if run.steps and run.training == run} == {
        Run(variant, 0, steps) for variant in trained for steps in LENGTHS.get(variant, ())
    }
    steps = [run.steps for run in lengths.runs if run.steps]
    assert steps == sorted(steps, reverse=True)
    for run, task in lengths.runs.items():
        if run.steps:
            cfg = task.identity["config"]
            assert cfg["train"]["max_iter"] == run.steps and cfg["train"]["seed"] == 0
            assert cfg["lr_multiplier"]["warmup_length"] * run.steps == pytest.approx(50)


def test_no_length_is_that_of_a_row_of_its_curve():
    for curve, rows in CURVES.items():
        own = [
            LazyConfig.load(str(experiment.config_file(row))).train.max_iter
            for row in rows
            if experiment.config_file(row).is_file()
        ]
        assert not set(own) & set(LENGTHS[EVALUATED.get(curve, curve)])


def test_a_plan_moves_to_another_machine(whole):
    """Nothing in a task is an absolute path, if the folder of the output is relative."""

    def texts(value):
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from texts(item)
        elif isinstance(value, str):
            yield value

    for task in whole.tasks:
        assert not [text for text in texts(task.identity) if text.startswith("/")]
        programs = [part for part in task.command if part.endswith(".py")]
        assert all((experiment.ROOT / part).is_file() for part in programs)
        assert not any(Path(part).is_absolute() for part in programs)


def test_the_same_records_elsewhere_are_the_same(make_grid, tmp_path):
    here = make_grid("--variants", "gridclip", "--seeds", "0", output=tmp_path / "here")
    there = make_grid("--variants", "gridclip", "--seeds", "0", output=tmp_path / "there")
    for task in here.tasks:
        task.open_record().write()
    (tmp_path / "here").rename(tmp_path / "there")
    assert [task.open_record().path.is_file() for task in there.tasks] == [True, True]
    assert [t.identity for t in here.tasks] == [t.identity for t in there.tasks]


def test_records_of_another_device_are_refused(make_grid, tmp_path):
    make_grid("--variants", "gridclip", output=tmp_path).tasks[0].open_record().write()
    with pytest.raises(ChangedError, match=r"\(config\.train\.device\)"):
        make_grid("--variants", "gridclip", "--device", "cuda", output=tmp_path)


def test_embeddings_lie_in_the_experiments_folder_and_none_are_added(whole):
    clip = whole.runs[Run("gridclip", 0)].identity["config"]["clip"]
    assert clip["image_embeddings"] == "OUTPUT/embeddings/shapes_test_images_tiles9"
    assert clip["text_embeddings"] == "OUTPUT/embeddings/shapes_test_text.safetensors"
    clip = whole.runs[Run("whole_image_alignment", 0)].identity["config"]["clip"]
    assert clip["image_embeddings"] == "OUTPUT/embeddings/shapes_test_images_whole"
    clip = whole.runs[Run("no_image_alignment", 0)].identity["config"]["clip"]
    assert clip["image_embeddings"] is None


def test_snakemake_plans_every_task(make_grid, tmp_path, capfd):
    """A dry run writes the plan and starts nothing."""
    whole = make_grid("--seeds", "0", output=tmp_path)
    run_tasks(Plan(whole.tasks, 1), whole.folder, ["--dry-run", "--quiet", "reason"])
    printed = capfd.readouterr()
    listed = set((printed.out + printed.err).split())
    assert {task.name.replace(" ", "_") for task in whole.tasks} <= listed
    plan = Plan.read(whole.folder / "plan.json")
    assert [(t.name, t.command) for t in plan.tasks] == [(t.name, t.command) for t in whole.tasks]
    assert not any(task.stamp.exists() or task.log_file.exists() for task in whole.tasks)


def test_other_annotations_and_another_clip_are_refused(
    tiny_shapes, laptop_clip, tmp_path, monkeypatch
):
    world = shutil.copytree(tiny_shapes, tmp_path / "world")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    arguments = ["--variants", "gridclip", "--seeds", "0", "--output", str(tmp_path)]

    def grid(*more):
        return experiment.Grid(reproduce.parse_args([*arguments, *more]))

    grid().tasks[0].open_record().write()
    grid()
    with pytest.raises(ChangedError, match=r"\(clip_sha256, config\.clip\.weights"):
        grid("--override", f"clip.weights={laptop_clip}")
    file = world / "shapes/shapes_test_val.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "changed": True}))
    with pytest.raises(ChangedError, match=r"\(annotations_sha256\.shapes_test_val\.json\)"):
        grid()


def test_text_embeddings_of_another_clip_are_refused(whole, tmp_path, monkeypatch):
    cfg = whole.config("gridclip", tmp_path, 0)[0]
    path = tmp_path / "text.safetensors"
    cfg.model.classifier.text_embeddings = str(path)
    experiment.check_text_embeddings(cfg)
    path.touch()

    class Other:
        clip_sha256 = "other"

    monkeypatch.setattr(TextEmbeddings, "load", lambda path: Other())
    with pytest.raises(ChangedError, match="made by another CLIP model"):
        experiment.check_text_embeddings(cfg)
