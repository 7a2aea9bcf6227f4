"""What complete runs are written as; nothing is trained."""

import json
from pathlib import Path

import pytest

from gridclip.data import open_dataset
from gridclip.evaluation import OpenVocabularyEvaluator, write_results
from laptop_world import outcomes, reproduce
from laptop_world.curves import curve_point, set_beside_gridclip
from laptop_world.differences import METRICS, paired_difference
from laptop_world.experiment import VARIANTS, Run
from laptop_world.tables import (
    difference,
    laptop_differences_table,
    laptop_runs_note,
    laptop_time_table,
    laptop_world_table,
)


@pytest.fixture
def complete(tiny_shapes):
    """Makes runs look complete, a minute each: AP is ten times the seed, more with more steps."""
    shapes = tiny_shapes / "shapes"
    data = open_dataset(json=shapes / "shapes_test_val.json", images=shapes)
    protocol = OpenVocabularyEvaluator(data).protocol()

    def complete(grid, keep=lambda run: True):
        for task in grid.tasks:
            record = task.open_record()
            record.complete, record.seconds = True, 60.0
            record.write()
        for run, task in grid.runs.items():
            if not keep(run):
                Path(task.folder, "record.json").unlink()
                continue
            steps = task.identity["config"]["train"]["max_iter"]
            names = ("AP", "AP50", "APr", "APc", "APf", "APr_shape")
            metrics = dict.fromkeys(names, 10.0 * run.seed + steps / 1000)
            folder = Path(task.folder)
            write_results(folder, {"bbox": metrics}, protocol=protocol, data=data, num_images=4)
            line = {"iteration": 19, "cpu_time": 60 / steps, "time": 60 / steps}
            (folder / "metrics.json").write_text(json.dumps(line))

    return complete


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_rows_have_their_first_seeds_and_what_is_missing_is_named(
    make_grid, complete, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(reproduce, "generate_world", lambda world, jobs: None)
    monkeypatch.setattr(reproduce, "find_spec", lambda name: None)  # no Snakemake is needed
    some = ["gridclip", "gridclip_4000", "no_dense_scores", "closed_set"]
    monkeypatch.setattr(reproduce, "SEEDS", (0, 1, 2))
    monkeypatch.setattr(reproduce, "available_variants", lambda: some)
    grid = make_grid("--publish", output=tmp_path / "out")
    complete(grid, lambda run: run != ("closed_set", 1, None) and not (run.steps and run.seed))
    reproduce.main(["--publish", "--output", str(tmp_path / "out")])

    results = tmp_path / "results"
    world = read(results, "laptop_world")
    assert list(world) == ["gridclip", "gridclip_4000", "no_dense_scores", "closed_set"]
    assert world["closed_set"]["AP"] == {"mean": 1, "std": None, "n": 1, "values": [1]}
    assert world["gridclip"]["AP"] == {"mean": 11, "std": 10, "n": 3, "values": [1, 11, 21]}

    runs = read(results, "laptop_world_runs")
    others = {name: [0, 1, 2] for name in VARIANTS if name not in some}
    assert runs["not_run"] == {"closed_set": [1], **others}
    printed = capsys.readouterr().out
    assert "  closed_set: 1\n" in printed and "  vild: 0 1 2\n" in printed
    assert runs["seeds"] == [0, 1, 2] and runs["shared"]["device"] == "cpu"
    assert {"processor", "commit", "versions", "annotations_sha256"} <= set(runs["shared"])
    assert runs["runs"]["gridclip seed 2"] == {"seconds": 60.0}
    assert runs["variants"]["gridclip_4000"]["steps"] == 4000
    assert runs["preparation_seconds"]["closed_set preparation"] == 60

    differences = read(results, "laptop_world_differences")
    cell = differences["gridclip - no_dense_scores"]["APf"]
    assert cell["values"] == [0.0] * 3 and cell["excludes_zero"] is False
    assert set(differences) == {
        *("gridclip - no_dense_scores", "gridclip - closed_set", "no_dense_scores - closed_set"),
        "gridclip_4000 - gridclip",
    }
    assert differences["gridclip - closed_set"]["AP"]["n"] == 1

    curve = read(results, "laptop_world_time")["gridclip"]
    assert [(p["steps"], p["AP"]["n"], p["AP"]["mean"]) for p in curve["points"]] == [
        *[(250, 1, 0.25), (500, 1, 0.5), (1000, 3, 11.0), (2000, 1, 2.0), (4000, 3, 14.0)]
    ]
    lengths = read(results, "laptop_world_lengths")
    assert list(lengths) == [f"gridclip steps {steps}" for steps in (250, 500, 2000)]
    assert lengths["gridclip steps 500"]["APf"]["values"] == [0.5]
    assert runs["variants"]["gridclip steps 2000"]["steps"] == 2000
    assert {round(point["minutes"], 6) for point in curve["points"]} == {1}
    assert curve["preparation_minutes"] == 1 and curve["device"] == "cpu"
    assert {path.suffix for path in results.iterdir()} == {".json", ".png"}

    table = laptop_world_table(world)
    assert "| GridCLIP | 3 | 11.0 ± 10.0 |" in table and "(closed set) | 1 | 1.0 |" in table
    note = laptop_runs_note(runs)
    assert "ViLD, ViLD-ensemble, " in note
    assert "without grid-level alignment (closed set) (seed 1), " in note
    assert laptop_differences_table(differences).count("\n| GridCLIP | ") == 2


def test_rows_published_before_stay_where_they_fit(make_grid, complete, tmp_path):
    """closed_set was published alone, with two seeds; gridclip and one seed of it come later."""
    before = make_grid("--variants", "closed_set", "--seeds", "0", "1", output=tmp_path / "a")
    complete(before)
    folder, seeds = tmp_path / "results", [0, 1]

    def publish(grid):
        records = outcomes.complete_runs(grid)
        return outcomes.write_rows(grid, records, VARIANTS, seeds, folder, publish=True)

    publish(before)
    later = make_grid(
        *("--variants", "gridclip", "closed_set", "--seeds", "0", "1"), output=tmp_path / "b"
    )
    complete(later, lambda run: run.variant == "gridclip" or run.seed == 0)
    missing = publish(later)
    world, runs = read(folder, "laptop_world"), read(folder, "laptop_world_runs")
    assert {name: row["AP"]["values"] for name, row in world.items()} == {
        **{"gridclip": [1, 11], "closed_set": [1, 11]}
    }
    assert "closed_set" not in missing and runs["not_run"] == missing
    assert set(runs["runs"]) == {f"{v} seed {s}" for v in world for s in seeds}
    assert "closed_set preparation" in runs["preparation_seconds"]
    assert set(read(folder, "laptop_world_differences")) == {"gridclip - closed_set"}
    publish(later)
    assert (read(folder, "laptop_world"), read(folder, "laptop_world_runs")) == (world, runs)


def test_seeds_are_added_to_a_published_row(make_grid, complete, tmp_path):
    folder, seeds = tmp_path / "results", [0, 1, 2]
    for seed, values in ((0, [1]), (2, [1]), (1, [1, 11]), (2, [1, 11, 21])):
        grid = make_grid("--variants", "gridclip", "--seeds", *"012", output=tmp_path / str(seed))
        complete(grid, lambda run, seed=seed: run.seed == seed)
        records = outcomes.complete_runs(grid)
        missing = outcomes.write_rows(grid, records, VARIANTS, seeds, folder, publish=True)
        assert read(folder, "laptop_world")["gridclip"]["AP"]["values"] == values
    assert "gridclip" not in missing
    runs = read(folder, "laptop_world_runs")
    assert list(runs["runs"]) == [f"gridclip seed {seed}" for seed in seeds]
    assert runs["variants"]["gridclip"]["config"]["train"]["seed"] == 0


@pytest.mark.parametrize("changed", ["processor", "config", "clip_sha256"])
def test_rows_published_before_that_do_not_fit_go(make_grid, complete, tmp_path, changed):
    before = make_grid("--variants", "closed_set", "--seeds", "0", output=tmp_path / "a")
    complete(before)
    folder = tmp_path / "results"
    outcomes.write_rows(before, outcomes.complete_runs(before), VARIANTS, [0], folder, publish=True)
    file = folder / "laptop_world_runs.json"
    runs = json.loads(file.read_text())
    if changed == "config":
        runs["variants"]["closed_set"]["config"]["model"]["seed"] = 99
    else:
        runs["shared"][changed] = "another"
    file.write_text(json.dumps(runs))
    later = make_grid(
        *("--variants", "gridclip", "closed_set", "--seeds", "0"), output=tmp_path / "b"
    )
    complete(later, lambda run: run == ("gridclip", 0, None))
    missing = outcomes.write_rows(
        later, outcomes.complete_runs(later), VARIANTS, [0], folder, publish=True
    )
    assert list(read(folder, "laptop_world")) == ["gridclip"] and missing["closed_set"] == [0]


def test_what_comes_before_a_training_counts(make_grid, complete, tmp_path, monkeypatch):
    """GridCLIP: the teacher's embeddings; ViLD: its proposals and their embeddings."""
    monkeypatch.setitem(outcomes.CURVES, "vild", ("vild",))
    monkeypatch.setitem(outcomes._BEFORE, "vild", outcomes._REGIONS)
    grid = make_grid("--variants", "gridclip", "vild", "--seeds", "0")
    complete(grid)
    records = outcomes.complete_runs(grid)
    rows = outcomes.finished_rows(grid, records, VARIANTS)
    outcomes.write_curves(grid, rows, tmp_path)
    curves = read(tmp_path, "laptop_world_time")
    assert {name: curve["preparation_minutes"] for name, curve in curves.items()} == {
        "gridclip": 1,
        "vild": 2,
    }
    assert laptop_time_table(curves).count("\n| GridCLIP | 1000 | 1.0 | 1.0 | 1 | 1.0 |") == 1


def test_nothing_is_written_of_no_complete_row(make_grid, tmp_path):
    grid = make_grid("--variants", "gridclip", "--seeds", "0")
    assert outcomes.complete_runs(grid) == {}
    missing = outcomes.write_rows(grid, {}, ["gridclip"], [0], tmp_path)
    outcomes.write_curves(grid, {}, tmp_path)
    assert missing == {"gridclip": [0]} and not list(tmp_path.iterdir())


def test_runs_of_several_processors_are_refused(make_grid, complete):
    grid = make_grid("--variants", "gridclip", "--seeds", "0", "1")
    complete(grid)
    file = Path(grid.runs[Run("gridclip", 1)].folder, "results.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "processor": "Another CPU"}))
    with pytest.raises(ValueError, match=r"'gridclip seed 1' of Another CPU.*--output of its own"):
        outcomes.complete_runs(grid)


def test_facts_that_differ_stay_with_their_runs(make_grid, complete):
    grid = make_grid("--variants", "gridclip", "--seeds", "0", "1")
    complete(grid)
    records = outcomes.complete_runs(grid)
    records[Run("gridclip", 1)]["commit"] = "another"
    sources = outcomes.run_sources(outcomes.finished_rows(grid, records, ["gridclip"]))
    assert "commit" not in sources["shared"] and "versions" in sources["shared"]
    assert sources["runs"]["gridclip seed 1"] == {"seconds": 60.0, "commit": "another"}
    note = laptop_runs_note({"seeds": [0, 1], "not_run": {}, **sources})
    assert "several commits" in note and "Not run: nothing." in note


def test_lengths_published_before_stay_with_their_minutes(make_grid, complete, tmp_path):
    """A seed a publication. Of a row without a finished run the minutes are those of the file."""
    folder, seeds = tmp_path / "results", [0, 1]

    def publish(output, keep):
        # --publish alone asks for the rows and for their other lengths
        grid = make_grid("--publish", output=tmp_path / output)
        complete(grid, lambda run: run.training.variant == "gridclip" and keep(run))
        records = outcomes.complete_runs(grid)
        outcomes.write_rows(grid, records, VARIANTS, seeds, folder, publish=True)
        points = read(folder, "laptop_world_time")["gridclip"]["points"]
        return {p["steps"]: (p["AP"]["values"], round(p["minutes"], 6)) for p in points}

    assert publish("a", lambda run: run.seed == 0 and run.steps != 250) == {
        **{500: ([0.5], 1), 1000: ([1], 1), 2000: ([2], 1)}
    }
    file = folder / "laptop_world_time.json"
    curves = json.loads(file.read_text())
    for point in curves["gridclip"]["points"]:
        point["minutes"] = 7.0
    curves["gridclip"]["preparation_minutes"] = 3.0
    file.write_text(json.dumps(curves))
    later = publish("b", lambda run: run.steps == 250 or (run.seed == 1 and run.steps == 500))
    assert later == {
        **{250: ([0.25, 10.25], 1), 500: ([0.5, 10.5], 1), 1000: ([1], 7), 2000: ([2], 7)}
    }
    lengths = read(folder, "laptop_world_lengths")
    assert lengths["gridclip steps 500"]["AP"]["values"] == [0.5, 10.5]
    assert "gridclip seed 1 steps 500" in read(folder, "laptop_world_runs")["runs"]


def make_curve(before, *points):
    """Of (steps, minutes, AP of each seed)."""
    points = [curve_point([dict.fromkeys(METRICS, v) for v in x], m, s) for s, m, x in points]
    return {"device": "cpu", "processor": "P", "preparation_minutes": before, "points": points}


def test_gridclip_stands_beside_each_point_of_others():
    """Its longest run that takes no more in all: embeddings count, equal minutes are enough."""
    gridclip = make_curve(1.0, (500, 2.0, [50.0, 52.0]), (1000, 4.0, [40.0]))
    theirs = make_curve(0.5, (250, 2.0, [10.0]), (500, 4.0, [20.0, 21.0]), (1000, 4.5, [30.0]))
    curves = {"gridclip": gridclip, "fvlm": theirs}
    set_beside_gridclip(curves)
    first, second, third = (p["gridclip"] for p in curves["fvlm"]["points"])
    assert first is None
    assert second == {"steps": 500, **dict.fromkeys(METRICS, paired_difference([50, 52], [20, 21]))}
    assert third["steps"] == 1000 and third["AP"]["interval"] is None
    rows = [r for r in laptop_time_table(curves).splitlines() if r.startswith("| F-VLM")]
    assert [row.split(" | ", 8)[-1] for row in rows] == [
        "– | – | – | – |",
        "500 | " + " | ".join([difference(second["AP"])] * 3) + " |",
        "1000 | +10.0 | +10.0 | +10.0 |",
    ]
    set_beside_gridclip({"fvlm": theirs})
    assert {p["gridclip"] for p in theirs["points"]} == {None}


def test_minutes_of_a_gpu_are_not_called_those_of_a_core():
    curve = make_curve(0.0, (1, 1.0, [1.0]))
    assert "processor time of one core (P)" in laptop_time_table({"gridclip": curve})
    on_gpu = laptop_time_table({"gridclip": {**curve, "device": "NVIDIA"}})
    assert "they are not minutes of a core" in on_gpu
