"""Confusions beside a plain loop, and beside supervision's matrix where both mean the same."""

import json

import numpy as np
import pytest
import supervision as sv
import torch
from torchvision.ops import box_iou

from gridclip.data import open_dataset
from gridclip.evaluation.confusion import count_confusions, most_confused, most_frequent
from gridclip.evaluation.detections import Detections

IMAGES, CLASSES = 40, 5


def make_data(folder, boxes, **fields):
    """A data set of (image, class, XYWH box) rows; ids of the file are not its own."""
    size = {"width": 200, "height": 200}
    images = [{"id": 10 + i, "file_name": f"{i}.png", **size} for i in range(IMAGES)]
    annotations = [
        {"image_id": 10 + i, "category_id": 3 * c + 2, "bbox": box, **fields} for i, c, box in boxes
    ]
    categories = [{"id": 3 * c + 2, "name": f"thing {c}"} for c in range(CLASSES)]
    path = folder / "data.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return open_dataset(json=path, images=folder)


def make_detections(rows):
    """Of (image, class, XYWH box, score)."""
    images, classes, boxes, scores = zip(*rows, strict=True) if rows else ([], [], [], [])
    return Detections(
        np.array(images, dtype=np.int64),
        np.array(classes, dtype=np.int64),
        np.array(boxes, dtype=float).reshape(-1, 4),
        np.array(scores, dtype=float),
    )


def random_boxes(rng, shifts):
    """Rows of objects, and of detections beside them: as many as ``shifts`` for each object."""
    objects, detections = [], []
    for image in range(IMAGES):
        for _ in range(rng.integers(0, 5)):
            x, y = rng.integers(0, 120, 2).tolist()
            w, h = rng.integers(20, 80, 2).tolist()
            objects.append((image, int(rng.integers(CLASSES)), [x, y, w, h]))
            for shift in shifts:
                dx, dy = (shift * rng.standard_normal(2) * (w, h)).tolist()
                box = [x + dx, y + dy, w, h]
                detections.append((image, int(rng.integers(CLASSES)), box, float(rng.random())))
    return objects, detections


def iou(a, b):
    corners = torch.tensor([a, b], dtype=torch.float64)
    corners[:, 2:] += corners[:, :2]
    return float(box_iou(corners[:1], corners[1:]))


def by_a_plain_loop(objects, detections, images, min_score, min_iou):
    called, left = {}, dict(enumerate(objects))
    for image, name, box, _ in sorted(detections, key=lambda d: -d[3]):
        if image not in images or _ < min_score:
            continue
        near = [
            (own == name, iou(box, true_box), i, own)
            for i, (other, own, true_box) in left.items()
            if other == image and iou(box, true_box) >= min_iou
        ]
        if near:
            _, _, taken, own = max(near)
            del left[taken]
            called[own, name] = called.get((own, name), 0) + 1
    missed = [sum(own == c and i in images for i, own, _ in left.values()) for c in range(CLASSES)]
    return called, missed


@pytest.mark.parametrize(("min_score", "min_iou"), [(0.0, 0.5), (0.5, 0.5), (0.3, 0.75)])
def test_equals_a_plain_loop(tmp_path, min_score, min_iou):
    rng = np.random.default_rng(0)
    objects, detections = random_boxes(rng, shifts=(0.15, 0.3))
    images = range(0, IMAGES, 2)
    found = count_confusions(
        make_data(tmp_path, objects),
        make_detections(detections),
        np.array(images),
        min_score=min_score,
        min_iou=min_iou,
    )
    called, missed = by_a_plain_loop(objects, detections, images, min_score, min_iou)
    assert dict(found.called) == called and sum(called.values()) > 5
    assert found.missed.tolist() == missed and sum(missed) > 0
    assert found.objects.tolist() == [
        sum(own == c and i in images for i, own, _ in objects) for c in range(CLASSES)
    ]


def test_equals_supervisions_matrix_where_each_object_has_one_detection(tmp_path):
    """Of several detections on an object it does not take the best score."""
    objects = [
        (i, c % CLASSES, [60 * k, 20, 40, 50])
        for i in range(IMAGES)
        for k, c in enumerate((i, 2 * i, i + 1))
    ]
    rng = np.random.default_rng(1)
    detections = [
        (i, int(rng.integers(CLASSES)), [x + rng.uniform(-20, 20), y, w, h], float(rng.random()))
        for i, _, (x, y, w, h) in objects
    ]
    found = count_confusions(
        make_data(tmp_path, objects),
        make_detections(detections),
        np.arange(IMAGES),
        min_score=0.25,
    )
    predictions, targets = [], []
    for image in range(IMAGES):
        mine = [d for d in detections if d[0] == image]
        predictions.append(
            sv.Detections(
                xyxy=as_corners([d[2] for d in mine]),
                class_id=np.array([d[1] for d in mine]),
                confidence=np.array([d[3] for d in mine]),
            )
        )
        true = [o for o in objects if o[0] == image]
        targets.append(
            sv.Detections(
                xyxy=as_corners([o[2] for o in true]), class_id=np.array([o[1] for o in true])
            )
        )
    matrix = sv.ConfusionMatrix.from_detections(
        predictions,
        targets,
        classes=[f"thing {c}" for c in range(CLASSES)],
        conf_threshold=0.25,
        iou_threshold=0.5,
    ).matrix
    mine = [[found.called[t, c] for c in range(CLASSES)] for t in range(CLASSES)]
    assert mine == matrix[:CLASSES, :CLASSES].astype(int).tolist()
    assert found.missed.tolist() == matrix[:CLASSES, CLASSES].astype(int).tolist()
    assert found.missed.sum() > 10 < len(most_frequent([found]))


def as_corners(boxes):
    boxes = np.array(boxes, dtype=float)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def test_the_best_name_counts_and_its_own_object_comes_first(tmp_path):
    data = make_data(tmp_path, [(0, 0, [10, 10, 50, 50]), (0, 1, [14, 10, 50, 50])])
    wrong, right = (0, 2, [10, 10, 50, 50], 0.9), (0, 0, [10, 10, 50, 50], 0.4)
    found = count_confusions(data, make_detections([right, wrong]), np.arange(1), min_score=0.1)
    # The second detection can only have what the first, which overlaps object 0 more, has left.
    assert found.called == {(0, 2): 1, (1, 0): 1}
    # An object of a detection's own name comes before one that it overlaps more.
    own = (0, 1, [10, 10, 50, 50], 0.9)
    found = count_confusions(data, make_detections([own]), np.arange(1), min_score=0.1)
    assert found.called == {(1, 1): 1} and found.missed.tolist() == [1, 0, 0, 0, 0]


def test_an_iou_and_a_score_at_the_threshold_count(tmp_path):
    data = make_data(tmp_path, [(0, 0, [0, 0, 10, 10])])
    half = make_detections([(0, 1, [0, 0, 10, 20], 0.3)])
    assert count_confusions(data, half, np.arange(1), min_score=0.3).called == {(0, 1): 1}
    assert not count_confusions(data, half, np.arange(1), min_score=0.31).called
    assert not count_confusions(data, half, np.arange(1), min_score=0.3, min_iou=0.51).called


def test_crowds_and_pictures_without_detections(tmp_path):
    data = make_data(tmp_path, [(0, 0, [0, 0, 10, 10])], iscrowd=1)
    on_it = make_detections([(0, 1, [0, 0, 10, 10], 0.9)])
    found = count_confusions(data, on_it, np.arange(IMAGES), min_score=0.3)
    assert not found.called and not found.objects.any() and not found.missed.any()
    data = make_data(tmp_path, [(0, 0, [0, 0, 10, 10])])
    found = count_confusions(data, make_detections([]), np.arange(IMAGES), min_score=0.3)
    assert found.missed.tolist() == [1, 0, 0, 0, 0] and most_frequent([found]) == []


def test_shares_of_a_row_sum_to_one(tmp_path):
    objects, detections = random_boxes(np.random.default_rng(2), shifts=(0.1, 0.2))
    objects = [o for o in objects if o[1] != 4]
    data = make_data(tmp_path, objects)
    found = count_confusions(data, make_detections(detections), np.arange(IMAGES), min_score=0.3)
    shares = found.shares([0, 2, 4], [0, 2])
    assert shares.shape == (3, 4) and np.isnan(shares[2]).all()
    np.testing.assert_allclose(shares[:2].sum(axis=1), 1)
    assert shares[1, 1] == found.called[2, 2] / found.objects[2]
    others = sum(found.called[0, c] for c in (1, 3, 4))
    assert shares[0, 2] == others / found.objects[0] > 0


def test_the_most_frequent_of_all_runs(tmp_path):
    data = make_data(tmp_path, [(i, 0, [0, 0, 10, 10]) for i in range(6)])

    def called(*names):
        rows = [(i, c, [0, 0, 10, 10], 0.9) for i, c in enumerate(names)]
        return count_confusions(data, make_detections(rows), np.arange(6), min_score=0.3)

    pairs = most_frequent([called(1, 1, 1, 0, 0, 0), called(2, 2, 2, 2, 3, 0)])
    assert pairs == [(0, 2), (0, 1), (0, 3)]
    assert most_confused(pairs, 3) == [0, 2, 1] and most_confused(pairs, 9) == [0, 2, 1, 3]
