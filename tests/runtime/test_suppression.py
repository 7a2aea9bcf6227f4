import numpy as np
import pytest
import torch
from detectron2.layers import batched_nms
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances

from gridclip_runtime.suppression import Candidates, Limits, choose, suppress


def candidates(count, num_classes, seed=0, side=600.0):
    """With boxes that reach beyond the picture, as the detector's do."""
    generator = np.random.default_rng(seed)
    corners = generator.uniform(-20, side, (count, 2))
    sizes = generator.uniform(1, side / 3, (count, 2))
    boxes = np.concatenate([corners, corners + sizes], axis=1).astype(np.float32)
    scores = generator.permutation(count).astype(np.float32) / count
    return Candidates(boxes, scores, generator.integers(0, num_classes, count))


@pytest.mark.parametrize("nms", [0.1, 0.5, 0.6, 1.0])
@pytest.mark.parametrize("num_classes", [1, 7, 1203])
@pytest.mark.parametrize("count", [0, 1, 1000, 1001, 3000])
def test_is_torchvisions(count, num_classes, nms):
    """Few boxes and many: torchvision treats them in two ways."""
    found = candidates(count, num_classes)
    tensors = map(torch.from_numpy, found)
    expected = batched_nms(*tensors, nms).tolist()
    assert suppress(found, nms, count + 1).tolist() == expected
    assert suppress(found, nms, 17).tolist() == expected[:17]


def test_boxes_without_area():
    boxes = np.array([[5, 5, 5, 5], [5, 5, 5, 5], [0, 0, 9, 9]], np.float32)
    found = Candidates(boxes, np.array([0.3, 0.2, 0.1], np.float32), np.zeros(3, np.int64))
    expected = batched_nms(*map(torch.from_numpy, found), 0.5).tolist()
    assert suppress(found, 0.5, 9).tolist() == expected == [0, 1, 2]


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_detections_are_in_pixels_of_the_picture(threshold):
    found = candidates(2000, 20)
    network, picture = (600, 500), (411, 333)
    kept = choose(found, Limits(threshold, 0.6, 300), network, picture)

    scores = torch.from_numpy(found.scores)
    boxes, scores, classes = (torch.from_numpy(x)[scores > threshold] for x in found)
    rows = batched_nms(boxes, scores, classes, 0.6)[:300]
    instances = Instances(network, pred_boxes=Boxes(boxes[rows]), scores=scores[rows])
    instances.pred_classes = classes[rows]
    expected = detector_postprocess(instances, *picture)
    assert len(expected) == len(kept.scores) > 100
    np.testing.assert_array_equal(kept.boxes, expected.pred_boxes.tensor.numpy())
    np.testing.assert_array_equal(kept.scores, expected.scores.numpy())
    np.testing.assert_array_equal(kept.classes, expected.pred_classes.numpy())


def test_all_limits_may_leave_nothing():
    kept = choose(candidates(50, 3), Limits(1.0, 0.6, 300), (9, 9), (9, 9))
    assert kept.boxes.shape == (0, 4) and len(kept.scores) == len(kept.classes) == 0
