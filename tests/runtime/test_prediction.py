import numpy as np
import torch
from detectron2.structures import Boxes

from gridclip.prediction import Names
from gridclip.prediction import Prediction as GridCLIPs
from gridclip_runtime import Prediction

BOXES = np.array([[0, 0, 9, 9], [1, 2, 30.126, 40], [5, 5, 6, 6]], np.float32)
SCORES = np.array([0.9, 0.30000001, 0.1], np.float32)
CLASSES = np.array([1, 0, 1])
WORDS = ("dog", "kite")


def make(base):
    return Prediction((40, 60), BOXES, SCORES, CLASSES, WORDS, base, "a.png")


def test_rows_are_those_of_gridclip():
    for base in (frozenset(["dog"]), None):
        other = GridCLIPs(
            (40, 60),
            vocabulary=Names(WORDS, base),
            pred_boxes=Boxes(torch.from_numpy(BOXES)),
            scores=torch.from_numpy(SCORES),
            pred_classes=torch.from_numpy(CLASSES),
        )
        found = make(base)
        assert found.to_dicts() == other.to_dicts() and found.novel == other.novel
        assert len(found.above(0.3)) == len(other.above(0.3)) == 2


def test_parts_keep_their_words():
    found = make(frozenset(["dog"]))
    assert found.novel == [True, False, True]
    for part in (found[1:], found[found.scores < 0.5], found[[1, 2]]):
        assert part.names == ["dog", "kite"] and part.novel == [False, True]
        assert part.source == "a.png" and part.image_size == (40, 60)
    assert found[found.scores > 1].to_dicts() == []
