"""gridclip/label_files.py: what is written, other programs read."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
import torch
from detectron2.structures import Boxes
from PIL import Image
from pycocotools.coco import COCO

from gridclip.label_files import FORMATS, write_video_labels
from gridclip.prediction import Names, Prediction

NAMES = ("cat", "traffic light, 'red' & <green>", "犬")
BOXES = {
    "a.png": [[10.25, 20.5, 60, 70], [0, 0, 100, 80]],
    "b b.png": [[5, 6, 7.5, 9]],
    "c.png": [],
}
CLASSES = {"a.png": [1, 0], "b b.png": [2], "c.png": []}


def found_in(name, base=None):
    count = len(BOXES[name])
    return Prediction(
        (80, 100),
        vocabulary=Names(NAMES, base),
        source=name,
        pred_boxes=Boxes(torch.tensor(BOXES[name]).reshape(-1, 4)),
        scores=torch.tensor([0.91234, 0.5])[:count],
        pred_classes=torch.tensor(CLASSES[name], dtype=torch.int64),
    )


def write(label_format, tmp_path, base=None):
    folder = tmp_path / "labels of all"
    (tmp_path / "pictures").mkdir()
    with FORMATS[label_format].open(folder, NAMES) as write_labels:
        for name in BOXES:
            path = tmp_path / "pictures" / name
            Image.new("RGB", (100, 80)).save(path)
            write_labels(path, found_in(name, base))
    stems = [Path(name).stem for name in BOXES]
    promised = {file.format(stem=stem) for file in FORMATS[label_format].files for stem in stems}
    written = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert written == promised
    return folder


def check(dataset, tolerance):
    """A supervision data set that was read holds what was written."""
    assert len(dataset) == 3
    for path, _, read in dataset:
        name = Path(path).name
        np.testing.assert_allclose(
            read.xyxy.reshape(-1, 4), np.array(BOXES[name]).reshape(-1, 4), atol=tolerance
        )
        names = [dataset.classes[c] for c in read.class_id]
        assert names == [NAMES[c] for c in CLASSES[name]]


def test_json(tmp_path):
    folder = write("json", tmp_path, base=frozenset({"cat"}))
    record = json.loads((folder / "a.json").read_text())
    assert record["image"] == str(tmp_path / "pictures/a.png")
    assert (record["width"], record["height"]) == (100, 80)
    assert record["detections"][0] == {
        "name": NAMES[1],
        "score": 0.9123,
        "box": BOXES["a.png"][0],
        "novel": True,
    }
    assert json.loads((folder / "c.json").read_text())["detections"] == []


@pytest.mark.parametrize("base", [None, frozenset({"cat"})])
def test_csv(tmp_path, base):
    folder = write("csv", tmp_path, base)
    with open(folder / "detections.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "name", "score", "x0", "y0", "x1", "y1", "novel"]
    assert [row["name"] for row in rows] == [NAMES[1], "cat", "犬"]
    assert [float(rows[0][side]) for side in ("x0", "y0", "x1", "y1")] == BOXES["a.png"][0]
    assert rows[2]["image"] == str(tmp_path / "pictures/b b.png") and rows[2]["score"] == "0.9123"
    assert [row["novel"] for row in rows] == (["True", "False", "True"] if base else [""] * 3)


def test_coco(tmp_path):
    folder = write("coco", tmp_path)
    file = folder / "annotations.json"
    record = json.loads(file.read_text())
    assert [a["id"] for a in record["annotations"]] == [1, 2, 3]
    assert record["annotations"][0]["score"] == 0.9123
    coco = COCO(str(file))  # COCO's own reader
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(NAMES)
    assert coco.loadImgs(2)[0] == {"id": 2, "file_name": "b b.png", "width": 100, "height": 80}
    (annotation,) = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
    assert annotation["bbox"] == [5, 6, 2.5, 3] and annotation["area"] == pytest.approx(7.5)
    read = sv.DetectionDataset.from_coco(str(tmp_path / "pictures"), str(file))
    check(read, 0.01)


def test_yolo(tmp_path):
    folder = write("yolo", tmp_path)
    read = sv.DetectionDataset.from_yolo(
        str(tmp_path / "pictures"), str(folder / "labels"), str(folder / "data.yaml")
    )
    check(read, 0.01)
    assert read.classes == list(NAMES)


def test_voc(tmp_path):
    folder = write("voc", tmp_path)
    read = sv.DetectionDataset.from_pascal_voc(
        str(tmp_path / "pictures"), str(folder / "annotations")
    )
    check(read, 0.51)  # whole pixels


@pytest.mark.parametrize("label_format", ["csv", "coco"])
def test_an_error_leaves_the_old_file(tmp_path, label_format):
    folder = write(label_format, tmp_path)
    (path,) = folder.iterdir()
    before = path.read_bytes()
    with pytest.raises(RuntimeError), FORMATS[label_format].open(folder, NAMES):
        raise RuntimeError
    assert path.read_bytes() == before and len(list(folder.iterdir())) == 1


ROWS = [
    {"frame": 0, "time": 0.0, "name": "cat, black", "score": 0.5, "box": [1, 2, 3, 4]},
    {"frame": 3, "time": 0.1, "name": "犬", "score": 0.4, "box": [5, 6, 7, 8], "track": 2},
]


def test_rows_of_a_video(tmp_path):
    write_video_labels(tmp_path / "v.json", iter(ROWS))
    assert json.loads((tmp_path / "v.json").read_text()) == ROWS
    write_video_labels(tmp_path / "v.csv", iter(ROWS))
    with open(tmp_path / "v.csv", newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert (first["frame"], first["time"], first["name"]) == ("0", "0.0", "cat, black")
    assert (first["track"], second["track"], second["x1"]) == ("", "2", "7")
    for suffix in ("json", "csv"):
        write_video_labels(tmp_path / f"empty.{suffix}", iter([]))
    assert json.loads((tmp_path / "empty.json").read_text()) == []
    assert (tmp_path / "empty.csv").read_text().startswith("frame,time,name,score,x0,")
