import numpy as np
import torch
from detectron2.structures import BoxMode

from laptop_world.demo_words import is_called, is_right

NAMES = ["plain red star", "dotted blue fish"]


def record(*boxes, not_exhaustive=()):
    return {
        "annotations": [
            {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": c} for c, box in boxes
        ],
        "not_exhaustive_classes": np.array(not_exhaustive, dtype=np.int64),
    }


def test_is_called():
    assert is_called("plain red star", "red star") and is_called("plain red star", "star")
    assert not is_called("plain red star", "green star")


def test_is_right():
    box = torch.tensor([10.0, 10.0, 30.0, 30.0])
    star, fish = (0, [10, 10, 20, 20]), (1, [10, 10, 20, 20])
    assert is_right("red star", box, record(star), NAMES) is True
    assert is_right("fish", box, record(star), NAMES) is False
    assert is_right("fish", box, record(star, fish), NAMES) is True
    assert is_right("star", box, record((0, [60, 60, 20, 20])), NAMES) is False
    # An object may be there without annotation.
    assert is_right("star", box, record(not_exhaustive=[0]), NAMES) is None
    assert is_right("fish", box, record(not_exhaustive=[0]), NAMES) is False
    assert is_right("red banana", box, record(star), NAMES) is None
