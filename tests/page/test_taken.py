import io
import json

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes
from PIL import Image, ImageChops
from pycocotools.coco import COCO

from gridclip.prediction import Names, Prediction
from page.given import make_view
from page.taken import Found, as_coco, as_json, as_picture


@pytest.fixture
def found(predictor, picture):
    prediction = Prediction(
        (90, 120),
        vocabulary=Names(("cat", "rødt hus"), frozenset({"cat"})),
        pred_boxes=Boxes(torch.tensor([[10.0, 20.0, 50.0, 60.0], [0.0, 0.0, 30.125, 40.0]])),
        scores=torch.tensor([0.9, 0.25]),
        pred_classes=torch.tensor([1, 0]),
    )
    return Found(predictor, str(picture), make_view(str(picture))[0], prediction, 0.1)


def test_json_is_what_is_shown(found):
    assert json.loads(as_json(found, 0.0)) == {
        **{"image": "street.png", "width": 120, "height": 90},
        "detections": found.prediction.to_dicts(),
    }
    assert len(json.loads(as_json(found, 0.25))["detections"]) == 2
    assert len(json.loads(as_json(found, 0.26))["detections"]) == 1


def test_coco_can_be_opened_by_its_own_tools(found, tmp_path, capsys):
    (tmp_path / "coco.json").write_bytes(as_coco(found, 0.0))
    coco = COCO(tmp_path / "coco.json")
    (image,) = coco.loadImgs(coco.getImgIds())
    assert (image["file_name"], image["width"], image["height"]) == ("street.png", 120, 90)
    best, other = coco.loadAnns(coco.getAnnIds(image["id"]))
    assert best["bbox"] == [10, 20, 40, 40] and best["area"] == 1600 and best["score"] == 0.9
    assert other["bbox"] == [0, 0, 30.12, 40]
    assert [coco.cats[a["category_id"]]["name"] for a in (best, other)] == ["rødt hus", "cat"]
    empty = json.loads(as_coco(found, 1.0))
    assert empty["annotations"] == [] and len(empty["categories"]) == 2


def test_a_small_picture_is_enlarged(found, picture):
    drawn = Image.open(io.BytesIO(as_picture(found, 0.3)))
    assert drawn.format == "JPEG" and drawn.size == (640, 480)
    original = Image.open(picture).resize(drawn.size)

    def difference(threshold):
        image = Image.open(io.BytesIO(as_picture(found, threshold)))
        return np.asarray(ImageChops.difference(image, original)).sum()

    assert difference(0.0) > difference(0.3) > difference(1.0)


def test_the_view_has_the_boxes_in_its_own_pixels(found):
    """The box's left edge, at 10 of 120 pixels, is at 53 of 640."""
    changed = ImageChops.difference(found.draw_view(0.3), found.view).convert("L")
    edge = [changed.getpixel((x, 250)) for x in range(30, 80)]
    assert 50 <= 30 + edge.index(max(edge)) <= 57
