"""gridclip/tracking.py: objects keep their numbers."""

import sys

import pytest
import torch
from detectron2.structures import Boxes

from gridclip.prediction import Names, Prediction
from gridclip.tracking import Tracker


def found(*boxes, scores=None, classes=None):
    return Prediction(
        (200, 200),
        vocabulary=Names(("cat", "dog"), None),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.tensor(scores or [0.5] * len(boxes)),
        pred_classes=torch.tensor(classes or [0] * len(boxes), dtype=torch.int64),
    )


def box(x, y):
    return [x, y, x + 30, y + 30]


def test_objects_keep_their_numbers_in_whatever_order_they_come():
    tracker = Tracker(0.3)
    tracks = []
    for i in range(8):
        left, right = box(10 + 4 * i, 10), box(150 - 4 * i, 100)
        boxes = (left, right) if i % 2 else (right, left)
        result = tracker.update(found(*boxes))
        assert torch.equal(result.pred_boxes.tensor, torch.tensor(boxes, dtype=torch.float32))
        tracks.append(result.tracks if i % 2 else result.tracks[::-1])
    assert tracks[0] == [None, None]  # it takes two frames
    assert len(set(map(tuple, tracks[1:]))) == 1 and sorted(tracks[1]) == [1, 2]


def test_a_number_outlasts_gaps_weak_frames_and_other_names():
    tracker = Tracker(0.4)

    def update(*args, **kwargs):
        return tracker.update(found(*args, **kwargs)).tracks

    update(box(50, 50))
    assert update(box(52, 50)) == [1]
    assert update(box(54, 50), scores=[0.25]) == [1]
    assert update() == []
    assert update(box(58, 50), classes=[1]) == [1]
    for _ in range(31):
        update()
    assert update(box(60, 50)) == [None]
    assert update(box(60, 50)) == [2]


def test_nothing_weak_begins_a_track():
    tracker = Tracker(0.4)
    for _ in range(4):
        assert tracker.update(found(box(50, 50), scores=[0.3])).tracks == [None]


def test_numbers_are_in_rows_and_in_supervision():
    tracker = Tracker(0.4)
    tracker.update(found(box(50, 50)))
    result = tracker.update(found(box(50, 50), box(120, 120)))
    assert [row["track"] for row in result.to_dicts()] == [1, None]
    assert result.to_supervision().tracker_id.tolist() == [1, -1]
    assert result.above(0.9).tracks == []
    assert found(box(1, 1)).tracks is None and "track" not in found(box(1, 1)).to_dicts()[0]


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(ModuleNotFoundError, match="needs the package trackers.*requirements-app"):
        Tracker(0.3)
