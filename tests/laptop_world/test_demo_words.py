import torch
from detectron2.structures import BoxMode

from laptop_world.demo_words import is_called, is_right

NAMES = ["plain_red_star", "dotted_blue_fish"]


def record(*boxes, not_exhaustive=()):
    return {
        "annotations": [
            {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": c} for c, box in boxes
        ],
        "not_exhaustive_category_ids": list(not_exhaustive),
    }


def test_is_called():
    assert is_called("plain_red_star", "red star") and is_called("plain_red_star", "star")
    assert not is_called("plain_red_star", "green star")


def test_is_right():
    box = torch.tensor([10.0, 10.0, 30.0, 30.0])
    star, fish = (0, [10, 10, 20, 20]), (1, [10, 10, 20, 20])
    assert is_right("red star", box, record(star), NAMES) is True
    assert is_right("fish", box, record(star), NAMES) is False
    assert is_right("fish", box, record(star, fish), NAMES) is True
    assert is_right("star", box, record((0, [60, 60, 20, 20])), NAMES) is False
    # An object may be there without annotation; LVIS's ids count from 1.
    assert is_right("star", box, record(not_exhaustive=[1]), NAMES) is None
    assert is_right("fish", box, record(not_exhaustive=[1]), NAMES) is False
    assert is_right("red banana", box, record(star), NAMES) is None
