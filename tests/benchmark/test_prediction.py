"""benchmark/prediction.py: what is compared; no time is tested."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes
from PIL import Image

from benchmark import prediction as script
from gridclip.prediction import Names, Prediction


def found(boxes, scores, classes):
    return Prediction(
        (100, 100),
        vocabulary=Names(("cat", "dog")),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.tensor(scores),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
    )


def test_the_same_detections_are_found_in_any_order():
    alone = found([[0, 0, 10, 10], [50, 50, 90, 90], [0, 0, 9, 9]], [0.9, 0.5, 0.2], [0, 1, 1])
    batched = found([[50, 51, 90, 93], [0, 0, 10, 10], [70, 0, 80, 9]], [0.7, 0.6, 0.4], [1, 0, 0])
    empty = found([], [], [])
    assert script.difference([alone], [batched], 0.3) == {
        "detections": 2,
        "missing": 0,
        "new": 1,
        "median_score_difference": pytest.approx(0.25),
        "largest_score_difference": pytest.approx(0.3),
        "largest_box_difference": 3,
    }
    of_all = script.difference([alone, alone], [batched, empty], 0.0)
    assert (of_all["detections"], of_all["missing"], of_all["new"]) == (6, 1 + 3, 1)
    nothing = script.difference([empty], [batched], 0.5)
    assert (nothing["missing"], nothing["new"], nothing["largest_score_difference"]) == (0, 2, 0)
    same = script.difference([alone], [alone], 0.0)
    assert same["largest_score_difference"] == same["largest_box_difference"] == 0


def test_pictures_are_cut_to_shapes_of_their_own(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in paths:
        Image.effect_noise((80, 60), 50).save(path)
    shapes = [pixels.shape for pixels in script.mixed_shapes(paths, seed=0)]
    assert len(set(shapes)) == 5
    assert all(30 <= h <= 60 and 40 <= w <= 80 for h, w, _ in shapes)
    again = script.mixed_shapes(paths, seed=0)
    assert [p.shape for p in again] == shapes


class Predictor:
    """Finds one box in each picture, and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def stream(self, pictures, batch_size=None):
        count = 0
        for count, _ in enumerate(pictures, 1):  # noqa: B007
            yield found([[0, 0, 10, 10]], [0.9], [0])
        self.asked.append((count, batch_size))


def test_memory_is_read_after_so_many_pictures(tmp_path):
    predictor = Predictor()
    memory = script.measure_memory(predictor, [tmp_path / "a.png", tmp_path / "b.png"], [2, 5, 7])
    assert list(memory) == ["2", "5", "7"] and min(memory.values()) > 10
    assert predictor.asked == [(7, None)]


def test_batch_sizes_take_turns():
    predictor = Predictor()
    speed = script.measure_speed(predictor, ["a.png"] * 10, runs=2)
    assert predictor.asked == [(8, 8), *[(10, size) for size in (1, 4, 8)] * 2]
    assert list(speed) == ["1", "4", "8"] and all(len(s["runs"]) == 2 for s in speed.values())
    differing = script.measure_batches(
        predictor, [np.zeros((9, 9, 3), np.uint8)] * 3, script.in_batches
    )
    assert list(differing) == ["4", "8"] and differing["8"]["0.3"]["detections"] == 3
