import numpy as np
import pytest
import supervision as sv
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from gridclip.prediction import Names, Prediction


def make(count=2, base=frozenset({"cat"}), source="street.jpg"):
    boxes = torch.tensor([[10.0, 20.0, 50.0, 60.0], [0.0, 0.0, 30.123, 40.0]])[:count]
    return Prediction(
        (80, 100),
        vocabulary=Names(("cat", "red shoe"), base),
        source=source,
        pred_boxes=Boxes(boxes),
        scores=torch.tensor([0.9, 0.25])[:count],
        pred_classes=torch.tensor([1, 0])[:count],
    )


def test_it_is_detectron2s_instances_with_names():
    prediction = make()
    assert isinstance(prediction, Instances)
    assert prediction.names == ["red shoe", "cat"] and prediction.novel == [True, False]
    assert prediction.vocabulary == ("cat", "red shoe") and prediction.source == "street.jpg"


@pytest.mark.parametrize(
    "part", [lambda p: p[p.scores < 0.5], lambda p: p[1], lambda p: p[-1:], lambda p: p[[1]]]
)
def test_a_part_keeps_its_names(part):
    found = part(make()).to("cpu")
    assert found.names == ["cat"] and found.novel == [False] and found.source == "street.jpg"


def test_above_keeps_what_reaches_the_threshold():
    assert make().above(0.25).names == ["red shoe", "cat"]
    assert make().above(0.26).names == ["red shoe"]
    assert make().above(0.95).names == []


def test_resized_follows_the_picture():
    prediction = make()
    half = prediction.resized(40, 200)
    assert half.image_size == (40, 200) and half.names == prediction.names
    assert half.pred_boxes.tensor[0].tolist() == [20.0, 10.0, 100.0, 30.0]
    assert torch.equal(half.scores, prediction.scores) and half.novel == prediction.novel
    assert prediction.pred_boxes.tensor[0].tolist() == [10.0, 20.0, 50.0, 60.0]


def test_what_is_novel_may_not_be_known():
    prediction = make(base=None)
    assert prediction.novel is None
    assert prediction.to_dicts()[0] == {
        **{"name": "red shoe", "score": 0.9},
        "box": [10.0, 20.0, 50.0, 60.0],
    }
    assert "novel" not in prediction.to_supervision().data


def test_dicts():
    assert make().to_dicts()[1] == {
        **{"name": "cat", "score": 0.25, "novel": False},
        "box": [0.0, 0.0, 30.12, 40.0],
    }
    assert make(0).to_dicts() == []


@pytest.mark.parametrize("count", [2, 1, 0])
def test_supervision_takes_it_and_draws_it(count):
    detections = make(count).to_supervision()
    assert len(detections) == count
    assert list(detections["class_name"]) == ["red shoe", "cat"][:count]
    assert list(detections["novel"]) == [True, False][:count]
    canvas = np.zeros((80, 100, 3), np.uint8)
    drawn = sv.LabelAnnotator().annotate(
        sv.BoxAnnotator().annotate(canvas.copy(), detections), detections
    )
    assert (drawn.any()) == bool(count)
    assert isinstance(Image.fromarray(drawn), Image.Image)


def test_supervisions_own_reader_of_instances_agrees():
    prediction = make()
    own = prediction.to_supervision()
    theirs = sv.Detections.from_detectron2({"instances": prediction})
    np.testing.assert_array_equal(own.xyxy, theirs.xyxy)
    np.testing.assert_array_equal(own.confidence, theirs.confidence)
    np.testing.assert_array_equal(own.class_id, theirs.class_id)
