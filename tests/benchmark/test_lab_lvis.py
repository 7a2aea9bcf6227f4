import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.datasets import load_lvis_json

from benchmark import lab_lvis as script
from benchmark.lvis_job import write_file
from gridclip.data import open_dataset


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "val.json"
    write_file(path, 12, seed=3)
    return path


def test_the_file_is_lvis_s_and_larger_ones_are_made_in_parts(file, tmp_path):
    records = load_lvis_json(str(file), str(tmp_path))  # refuses what is no polygon
    assert len(records) == 12
    polygons = [a["segmentation"][0] for r in records for a in r["annotations"]]
    assert 40 < np.mean(list(map(len, polygons))) < 72
    write_file(tmp_path / "large.json", 1002, seed=3)
    data = open_dataset(json=tmp_path / "large.json", images=tmp_path, novel="rare")
    assert data.annotations.image_ids == tuple(range(1, 1003))
    assert [item.what for item in data.findings.items] in ([], ["category without boxes"])
    assert len(data.annotations.boxes) == pytest.approx(12.35 * 1002, rel=0.1)
    assert len(data.novel_classes) == 337 and data.federated


def test_before_and_after_find_and_write_the_same(file, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "RANKS", 1)
    script.write_detections(file, file.with_name("detections"))
    metrics, written = [], []
    for tail_type in (script.TailBefore, script.TailAfter):
        folder = tmp_path / tail_type.__name__
        folder.mkdir()
        tail = tail_type(file, folder)
        for output in script.read_outputs(file.with_name("detections"), 12, rank=0):
            tail.process(*output)
        metrics.append(tail.evaluate())
        written.append(json.loads((folder / "lvis_instances_results.json").read_text()))
    assert written[0] == written[1] and len(written[0]) == 12 * 300
    assert 0 < metrics[0]["AP"] == metrics[1]["AP"]


@pytest.mark.slow
def test_measures_both_and_leaves_other_figures_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / "lab.json"
    path.write_text(json.dumps({"other": 1, "start": "old"}))
    script.main(["--images", "40", "--val-images", "12", "--json", str(path)])
    record = json.loads(path.read_text())
    assert record["other"] == 1 and record["start"]["images"] == 40
    for part in ("start", "evaluation_tail"):
        assert "commit" in record[part]["setup"]
        for key in ("before", "after"):
            assert record[part][key]["seconds"] >= 0 and record[part][key]["peak_mib"] > 0
    tail = record["evaluation_tail"]
    assert tail["before"]["AP"] == tail["after"]["AP"] > 0
    assert "processor_seconds" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]


def test_a_measurement_that_fails_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="failed"):
        script.run_processes(Path.read_text, [(tmp_path / "none",)])
