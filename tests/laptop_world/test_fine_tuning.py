import itertools
import json
from pathlib import Path

import pytest
from PIL import Image

from gridclip.data import open_dataset, training_records
from gridclip.engine import GridCLIPCheckpointer
from gridclip.engine.train import build_model
from gridclip.settings import load_config
from gridclip.text import as_text_embeddings
from laptop_world import fine_tuning
from laptop_world.experiment import config_file
from laptop_world.fine_tuning_data import (
    groups,
    new_classes,
    old_classes,
    scenes,
    unseen_names,
    write_pictures,
)
from laptop_world.fine_tuning_report import fine_tuning_table
from laptop_world.fine_tuning_run import ALPHAS, GROUPS, RECIPES
from laptop_world.record import ChangedError
from laptop_world.shapes import build_scene, generate_shapes, load_world, novel_names


@pytest.mark.parametrize("world", ["dev", "test"])
def test_names_are_new_old_or_unseen(world):
    named, loaded = groups(world), load_world(world)
    assert len(named["new"]) == 6 and len(named["old"]) == 96 and len(named["unseen"]) == 28
    assert sorted(named["new"] + named["unseen"]) == sorted(novel_names(world))
    assert named["other"] == named["old"] + named["unseen"]
    axes = [loaded.axes[i] for i in new_classes(world)]
    assert sorted(axes) == ["combination"] * 2 + ["shape"] * 2 + ["texture"] * 2


def test_pictures_are_none_of_the_worlds():
    """A scene follows from its key alone; that of the worlds' own pictures begins with 0."""
    keys = [scene.key for scene in itertools.islice(scenes("dev", 0), 30)]
    assert len(set(keys)) == 30
    assert build_scene("dev", "val", 3).key[0] == 0 and {key[0] for key in keys} == {1}
    assert {scene.key[0] for scene in itertools.islice(scenes("dev", 4), 3)} == {5}


def test_new_categories_take_turns():
    picked = list(itertools.islice(scenes("test", 1), 12))
    for i, scene in enumerate(picked):
        assert new_classes("test")[i % 6] in {item.category_id for item in scene.items}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures("dev", 0, 8, folder)
    return folder


@pytest.mark.parametrize("kind", ["unknown", "absent"])
def test_annotations_tell_of_new_names_and_perhaps_of_old_ones(kind, pictures):
    data = open_dataset(json=pictures / f"{kind}.json", images=pictures, novel=unseen_names("dev"))
    data.check_pictures()
    new, old = set(new_classes("dev")), set(old_classes("dev"))
    records = training_records(data)
    for record, scene in zip(records, scenes("dev", 0), strict=False):
        objects = [item.category_id for item in scene.items if item.category_id in new]
        assert sorted(a["category_id"] for a in record["annotations"]) == sorted(objects)
        expected = (new - set(objects)) | (old if kind == "absent" else set())
        assert set(record["negative_classes"].tolist()) == expected
        with Image.open(record["file_name"]) as picture:
            assert picture.size == (record["width"], record["height"]) == (128, 128)
    assert len(records) == 8


def test_fewer_pictures_are_the_first_of_more(pictures, tmp_path):
    write_pictures("dev", 0, 2, tmp_path)
    for name in ("0.png", "1.png"):
        assert (tmp_path / name).read_bytes() == (pictures / name).read_bytes()


def arguments(folder, *more):
    (folder / "seed0.pth").touch()
    return ["--detectors", str(folder / "seed{seed}.pth"), "--seeds", "0", *more]


def test_plan_has_every_recipe_size_and_seed(tmp_path):
    (tmp_path / "seed1.pth").touch()
    args = fine_tuning.parse_args([*arguments(tmp_path), "--seeds", "0", "1"])
    runs = fine_tuning.plan(args)
    assert len(runs) == len({run.folder for run in runs}) == (3 * len(RECIPES) + 1) * 2
    assert {run.detector for run in runs} == {str(tmp_path / f"seed{s}.pth") for s in (0, 1)}
    assert not fine_tuning.is_for_results(args)
    args.seeds = [0, 1, 2, 3, 4]
    assert fine_tuning.is_for_results(args)


def test_a_missing_detector_is_named(tmp_path):
    with pytest.raises(SystemExit, match=f"there is no {tmp_path}/seed7.pth"):
        fine_tuning.main([*arguments(tmp_path), "--seeds", "0", "7"])


def outcome(run, by_alpha, processor="one"):
    run.outcome.parent.mkdir(parents=True, exist_ok=True)
    ap = {a: {g: v + i for i, g in enumerate(GROUPS)} for a, v in by_alpha.items()}
    run.outcome.write_text(json.dumps({"ap": ap, "made": {"processor": processor}}))


def test_summary_has_the_changes_of_each_seed(tmp_path):
    (tmp_path / "seed1.pth").touch()
    few = ["--recipes", "plain", "--pictures", "10"]
    args = fine_tuning.parse_args([*arguments(tmp_path, *few), "--seeds", "0", "1"])
    runs = fine_tuning.plan(args)
    for run in runs:
        if run.recipe == "before":
            outcome(run, {"0": 20.0 + run.seed})
        else:
            outcome(run, {f"{alpha:g}": 30.0 + 4 * run.seed for alpha in ALPHAS})
    summary = fine_tuning.summarise(runs)
    cell = summary["recipes"]["plain"]["10"]["0.5"]
    assert cell["new"]["values"] == [30.0, 34.0] and cell["old"]["mean"] == 33.0
    assert cell["new_change"] == {
        **{"mean": 11.5, "n": 2, "values": [10.0, 13.0]},
        "std": pytest.approx(4.5**0.5),
    }
    left_out = {"recipes": ["absent"], "pictures": [30]}
    table = fine_tuning_table({**summary, "world": "test", "processor": "P", "not_run": left_out})
    assert "Not run: alignment, and old names absent; 30 pictures." in table
    rows = table.splitlines()
    assert "| plain: new names only | 10 | 0.5 |" + " +11.5 ± 2.1 |" * 4 in rows


def test_runs_of_two_machines_make_no_table(tmp_path):
    args = fine_tuning.parse_args(arguments(tmp_path, "--recipes", "plain", "--pictures", "10"))
    runs = fine_tuning.plan(args)
    for run in runs:
        outcome(run, {f"{alpha:g}": 30.0 for alpha in (0.0, *ALPHAS)}, run.recipe)
    with pytest.raises(ChangedError, match="different machines"):
        fine_tuning.write_summary(args, runs)


@pytest.mark.slow
def test_two_steps_from_end_to_end(tmp_path, laptop_clip, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    generate_shapes("dev", tmp_path / "shapes", train=4, val=8, size=64)
    own = [f"clip.weights={laptop_clip}", "train.max_iter=2", "train.device=cpu"]
    own += ["dataloader.train.total_batch_size=2"]
    cfg = load_config(config_file("gridclip"), ["shapes.world=dev", own[0]])
    names = ["_".join(name) for name in load_world("dev").names]
    as_text_embeddings(names, laptop_clip, "single", progress=False).save(
        Path(cfg.clip.text_embeddings)
    )
    cfg.model.federated_weights = None
    GridCLIPCheckpointer(build_model(cfg), str(tmp_path)).save("seed0")
    out = tmp_path / "out"
    command = ["--detectors", str(tmp_path / "seed{seed}.pth"), "--seeds", "0", "--world", "dev"]
    command += ["--recipes", "absent", "aligned", "--pictures", "3", "--jobs", "1"]
    command += ["--output", str(out), "--override", *own]
    fine_tuning.main(command)
    result = json.loads((out / "dev/fine_tuning.json").read_text())
    assert set(result["recipes"]) == {"absent", "aligned"}
    assert set(result["recipes"]["absent"]["3"]) == {"0.25", "0.5", "1"}
    assert (out / "dev/fine_tuning.png").is_file() and not list(out.rglob("*.pth"))

    files = {path: path.stat().st_mtime_ns for path in out.rglob("outcome.json")}
    fine_tuning.main(command)
    assert len(files) == 3 and all(path.stat().st_mtime_ns == t for path, t in files.items())
    with pytest.raises(SystemExit, match="config.train.max_iter.*another --output"):
        fine_tuning.main([*command, "train.max_iter=3"])
