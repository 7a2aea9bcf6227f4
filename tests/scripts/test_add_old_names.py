import json

import pytest
import torch
from detectron2.structures import Boxes, Instances

import add_old_names
from world import as_coco


class Detector:
    """Finds a "red thing" in the upper left corner of every picture."""

    names = ("red thing",)

    def __init__(self, *arguments, **options):
        pass

    def __call__(self, path):
        boxes = Boxes(torch.tensor([[0.0, 0.0, 4.0, 4.0]]))
        fields = dict(scores=torch.tensor([0.9]), pred_classes=torch.tensor([0]))
        return Instances((96, 96), pred_boxes=boxes, **fields)


@pytest.fixture
def arguments(world, tmp_path):
    """Of a file that has boxes of the other two names alone."""
    file = as_coco(world, tmp_path / "train.json")
    dataset = json.loads(file.read_text())
    red = dataset["categories"].pop(0)["id"]
    kept = [a for a in dataset["annotations"] if a["category_id"] != red]
    dataset["annotations"] = [{"id": i, **a} for i, a in enumerate(kept)]
    file.write_text(json.dumps(dataset))
    options = {"--json": file, "--images": world / "train2017", "--output": tmp_path / "new.json"}
    options |= {"--config-file": "before.yaml", "--weights": "before.pth"}
    return [str(word) for pair in options.items() for word in pair]


def test_every_picture_gets_what_was_found(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(add_old_names, "Predictor", Detector)
    add_old_names.main(arguments)
    result = json.loads((tmp_path / "new.json").read_text())
    (red,) = [c["id"] for c in result["categories"] if c["name"] == "red thing"]
    found = [a["image_id"] for a in result["annotations"] if a["category_id"] == red]
    assert found == [image["id"] for image in result["images"]] and len(found) == 12
    assert "12 boxes of old names in 12 pictures" in capsys.readouterr().out


def test_a_missing_detector_is_one_line(arguments):
    with pytest.raises(SystemExit, match="^error: No config at 'before.yaml'"):
        add_old_names.main(arguments)
