"""The best threshold by the number of names: right detections, F1, and what competes."""

import shutil

import numpy as np
import torch
from detectron2.config import LazyConfig
from detectron2.structures import Boxes

from demo_root import save_detector
from gridclip.prediction import Names, Prediction
from laptop_world import thresholds
from laptop_world.experiment import PROJECT
from laptop_world.shapes.scenes import build_scene
from laptop_world.thresholds import best_threshold, boxes_of, match


def prediction(names, boxes, scores, classes):
    return Prediction(
        (128, 128),
        vocabulary=Names(names),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32)),
        scores=torch.tensor(scores),
        pred_classes=torch.tensor(classes),
    )


def test_a_detection_is_right_once_and_with_its_name():
    truth = [
        (np.array([0, 1]), np.array([[10.0, 10, 20, 20], [50, 50, 20, 20]])),
        (np.array([0]), np.array([[10.0, 10, 20, 20]])),
    ]
    twice = [[10, 10, 30, 30], [11, 11, 30, 30], [50, 50, 70, 70]]
    found = [
        (0, prediction(("cat", "dog"), twice, [0.6, 0.9, 0.5], [0, 0, 0])),
        (1, prediction(("dog", "cat"), [[10, 10, 30, 30], [90, 90, 99, 99]], [0.8, 0.7], [1, 1])),
    ]
    matched = match(found, truth, ("cat", "dog"))
    assert matched.classes.tolist() == [0] * 5
    assert matched.right.tolist() == [False, True, False, True, False]


def test_best_threshold():
    scores, right = np.array([0.2, 0.9, 0.5, 0.7]), np.array([True, True, True, False])
    best = best_threshold(scores, right, objects=4)
    assert best == {"threshold": 0.2, "f1": 0.75, "f1_at_default": round(4 / 7, 3)}
    only = np.array([False, True, False, False])
    assert best_threshold(scores, only, objects=1)["threshold"] == 0.9


def test_boxes_have_all_objects_of_a_scene_in_the_picture():
    scene = build_scene("test", "val", 0, 1)
    classes, boxes = boxes_of(scene)
    assert len(classes) == len(boxes) == sum(i.category_id is not None for i in scene.items)
    assert (boxes[:, 2:] > 0).all() and (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= thresholds.SIZE).all()


def test_names_of_the_training_compete_however_few_are_asked_for(
    tiny_shapes, tmp_path, monkeypatch
):
    """With an untrained detector. Alone, fewer names have higher scores."""
    shutil.copytree(tiny_shapes, tmp_path / "data")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    monkeypatch.chdir(PROJECT.parents[1])
    save_detector(LazyConfig.load(thresholds.CONFIG), tmp_path)
    monkeypatch.setattr(thresholds, "NAMES_ASKED", (65, 130))
    record = thresholds.measure(str(tmp_path / "model_final.pth"), 2)
    competing, alone = record["best"]["competing"], record["best"]["alone"]
    assert competing["65"] == competing["130"] == alone["130"]
    assert alone["65"]["threshold"] > competing["65"]["threshold"]
    assert set(record["best"]["novelty"]) == {"base", "novel"}
