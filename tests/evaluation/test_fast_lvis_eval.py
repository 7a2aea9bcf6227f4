"""FastLVISEval against lvis-api itself, to the last bit."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lvis import LVIS, LVISEval, LVISResults

from gridclip.evaluation.detections import Detections
from gridclip.evaluation.fast_lvis_eval import FastLVISEval, precision_and_recall
from gridclip.evaluation.matching import Candidates, find_candidates, match_greedily

FREQUENCIES = "rcf"
NUM_CATEGORIES = len(FREQUENCIES)
BEYOND = NUM_CATEGORIES + 1  # a category that the annotations do not have

# Few places and sizes make equal IoUs, IoUs of exactly 0.5, areas of exactly 32**2 and 96**2, and
# boxes without area.
places = st.tuples(*[st.sampled_from((0, 0, 16))] * 2, *[st.sampled_from((32, 16, 64, 96, 0))] * 2)
areas = st.sampled_from((None, None, 0.0, 1023.5, 1024.0, 9216.0, 9216.5))
labels = st.integers(1, NUM_CATEGORIES)
label_lists = st.lists(st.integers(1, BEYOND), max_size=3, unique=True)


def many(elements):
    """None at all, or enough of them to compete."""
    return st.just([]) | st.lists(elements, min_size=6, max_size=20)


@st.composite
def jobs(draw) -> tuple[dict, list[dict]]:
    """Up to six images, some without annotations, of which some are flagged "ignore"; detections
    in any order, most of them on annotations."""
    images = [
        {"id": i, "neg_category_ids": negative, "not_exhaustive_category_ids": not_exhaustive}
        for i, (negative, not_exhaustive) in enumerate(
            draw(st.lists(st.tuples(label_lists, label_lists), min_size=1, max_size=6)), 1
        )
    ]
    where = st.tuples(st.integers(1, len(images)), labels, places)
    drawn = draw(many(st.tuples(where, areas, st.sampled_from((None, None, 0, 1)))))
    first_id = draw(st.sampled_from((1, 0)))
    annotations = [
        {
            "id": i,
            "image_id": image_id,
            "category_id": label,
            "bbox": list(box),
            "area": box[2] * box[3] if area is None else area,
            **({} if ignore is None else {"ignore": ignore}),
        }
        for i, ((image_id, label, box), area, ignore) in enumerate(drawn, first_id)
    ]
    anywhere = st.tuples(st.integers(1, len(images)), st.integers(1, BEYOND), places)
    near = st.sampled_from([where for where, *_ in drawn]) if drawn else anywhere
    scores = st.sampled_from((0.25, 0.5, 0.75))
    detections = draw(many(st.tuples(near | near | anywhere, scores)))
    dataset = {"images": images, "annotations": annotations, "categories": categories()}
    return dataset, as_results((*where, score) for where, score in detections)


def categories() -> list[dict]:
    return [
        {"id": i, "name": f"thing {i}", "frequency": frequency}
        for i, frequency in enumerate(FREQUENCIES, 1)
    ]


def as_results(detections) -> list[dict]:
    return [
        {"image_id": image_id, "category_id": label, "bbox": list(box), "score": score}
        for image_id, label, box, score in detections
    ]


def lvis_api(path, results: list[dict], image_ids: list[int], max_dets: int) -> LVISEval:
    """lvis-api as its authors call it, with the alias that numpy removed put back."""
    ground_truth = LVIS(str(path))
    # It cannot take an empty list; a category that is not evaluated changes nothing.
    results = results or as_results([(image_ids[0], BEYOND, (0, 0, 1, 1), 0.5)])
    detections = LVISResults(ground_truth, copy.deepcopy(results), max_dets=max_dets)
    evaluation = LVISEval(ground_truth, detections, "bbox")
    evaluation.params.img_ids = image_ids
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(np, "float", float, raising=False)
        evaluation.run()
    return evaluation


def ours(path, results: list[dict], image_ids: list[int], max_dets: int) -> FastLVISEval:
    evaluation = FastLVISEval(LVIS(str(path)), Detections.from_results(results), max_dets=max_dets)
    evaluation.params.img_ids = image_ids
    evaluation.run()
    return evaluation


@pytest.fixture(scope="module")
def annotation_file(tmp_path_factory):
    return tmp_path_factory.mktemp("lvis") / "annotations.json"


def assert_equal(actual: FastLVISEval, expected: LVISEval) -> None:
    np.testing.assert_array_equal(actual.eval["precision"], expected.eval["precision"])
    np.testing.assert_array_equal(actual.eval["recall"], expected.eval["recall"])
    aps = {k: v for k, v in expected.results.items() if k.startswith("AP")}
    assert {k: v for k, v in actual.results.items() if k.startswith("AP")} == aps
    assert list(actual.results.values()) == list(expected.results.values())


@settings(max_examples=150)
@given(jobs(), st.sampled_from((-1, 1, 3, 300)), st.data())
def test_equals_lvis_api(annotation_file, job, max_dets, data):
    dataset, results = job
    annotation_file.write_text(json.dumps(dataset))
    in_file = st.sampled_from([image["id"] for image in dataset["images"]])
    image_ids = data.draw(st.lists(in_file, min_size=1))
    arguments = annotation_file, results, image_ids, max_dets
    assert_equal(ours(*arguments), lvis_api(*arguments))


def crowded(rng: np.random.Generator) -> tuple[dict, list[dict]]:
    """Six images with about 400 detections each around eight boxes. Each lacks one category, which
    half of them list; a seventh image has nothing."""
    images = [
        {
            "id": i,
            "neg_category_ids": [1 + (i + 2) % 3] if i % 2 else [],
            "not_exhaustive_category_ids": [1 + i % 3] if i > 3 else [],
        }
        for i in range(1, 8)
    ]
    corners = rng.uniform(0, 100, (48, 2))
    boxes = np.hstack([corners, rng.uniform(20, 140, (48, 2))])
    owners = [1 + i % 6 for i in range(48)]
    own_labels = [1 + (owner + rng.integers(2).item()) % 3 for owner in owners]
    annotations = [
        {"id": i, "image_id": owners[i - 1], "category_id": own_labels[i - 1], "bbox": box}
        for i, box in enumerate(boxes.tolist(), 1)
    ]
    for annotation in annotations:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    near = rng.integers(0, 48, 2400)
    shifted = boxes[near] + rng.normal(0, 4, (2400, 4))
    shifted[::10, 2] = 0  # lvis-api drops boxes without area
    detections = [
        (owners[i], own_labels[i] if right else int(rng.integers(1, BEYOND)), box, score)
        for i, right, box, score in zip(
            near.tolist(),
            rng.random(2400) < 0.7,
            shifted.tolist(),
            (rng.integers(1, 200, 2400) / 200).tolist(),
            strict=True,
        )
    ]
    dataset = {"images": images, "annotations": annotations, "categories": categories()}
    return dataset, as_results(detections)


@pytest.mark.parametrize("max_dets", [300, 50])
@pytest.mark.parametrize("seed", range(3))
def test_equals_lvis_api_where_many_compete(annotation_file, seed, max_dets):
    dataset, results = crowded(np.random.default_rng(seed))
    annotation_file.write_text(json.dumps(dataset))
    arguments = annotation_file, results, list(range(1, 8)), max_dets
    expected, actual = lvis_api(*arguments), ours(*arguments)
    assert 0.02 < expected.results["AP"] < 0.95
    assert_equal(actual, expected)


def test_annotations_and_results_are_left_as_they_were(annotation_file):
    dataset, results = crowded(np.random.default_rng(0))
    annotation_file.write_text(json.dumps(dataset))
    ground_truth, before = LVIS(str(annotation_file)), copy.deepcopy(results)
    evaluation = FastLVISEval(ground_truth, Detections.from_results(results))
    evaluation.run()
    first = dict(evaluation.results)
    evaluation.run()
    assert evaluation.results == first
    assert ground_truth.dataset == dataset and results == before


def test_detections_in_unknown_images_are_refused(annotation_file):
    dataset, _ = crowded(np.random.default_rng(0))
    annotation_file.write_text(json.dumps(dataset))
    strange = Detections.from_results(as_results([(9, 1, (0, 0, 1, 1), 0.5)]))
    with pytest.raises(ValueError, match="1 images .* among them 9, are not in the annotations"):
        FastLVISEval(LVIS(str(annotation_file)), strange)


def test_detections_from_results():
    detections = Detections.from_results(
        as_results([(7, 3, (1, 2, 3.5, 4), 0.1), (5, 1, (0, 0, 1, 1), 1)])
    )
    assert detections.image_ids.tolist() == [7, 5]
    assert detections.category_ids.tolist() == [3, 1]
    assert detections.boxes.tolist() == [[1, 2, 3.5, 4], [0, 0, 1, 1]]
    assert detections.scores.tolist() == [0.1, 1]
    assert Detections.from_results([]).boxes.shape == (0, 4)
    with pytest.raises(ValueError, match="1 boxes have 5 numbers"):
        Detections.from_results(as_results([(1, 1, (0, 0, 1, 1, 0), 0.5)]))


def test_best_of_each_image_keeps_the_first_of_equal_scores_in_their_order():
    scores = [(2, 0.1), (1, 0.5), (2, 0.9), (1, 0.5), (2, 0.9), (1, 0.5)]
    detections = Detections.from_results(
        as_results((image_id, i, (0, 0, 1, 1), score) for i, (image_id, score) in enumerate(scores))
    )
    assert detections.best_of_each_image(2).category_ids.tolist() == [1, 2, 3, 4]
    assert detections.best_of_each_image(1).category_ids.tolist() == [1, 2]
    assert detections.best_of_each_image(0).boxes.shape == (0, 4)


def test_written_detections_are_those_of_plain_json(tmp_path, monkeypatch):
    """By value; what is written at once does not matter."""
    monkeypatch.setattr("gridclip.evaluation.detections._ROWS_AT_ONCE", 3)
    ids, categories = [4, 77, "a\nb"], [10, 20]
    rng = np.random.default_rng(0)
    odd = [1e-7, 1e16, 0.1, 1 / 3, 5e-324, 123456789.125, -0.0, 16.0]
    boxes = np.array([*odd, *rng.normal(0, 300, 20)], dtype=np.float32).reshape(-1, 4)
    detections = Detections(
        np.arange(7, dtype=np.int32) % 3,
        np.arange(7, dtype=np.int32) % 2,
        boxes,
        rng.random(7),
    )
    path = tmp_path / "results.json"
    for count in (7, 6, 1, 0):
        part = detections.take(slice(count))
        part.write(path, ids, categories)
        plain = [
            {
                "image_id": ids[i % 3],
                "category_id": categories[i % 2],
                "bbox": [float(x) for x in boxes[i]],
                "score": float(part.scores[i]),
            }
            for i in range(count)
        ]
        assert json.loads(path.read_text()) == plain
        assert path.read_text().count("\n") == max(count, 1)
    whole = path.read_text()
    boxes[5, 2] = np.inf
    with pytest.raises(ValueError, match="results.json is not finite"):
        detections.write(path, ids, categories)
    assert path.read_text() == whole and list(tmp_path.iterdir()) == [path]


def test_detections_of_several_parts():
    a = Detections(np.zeros(2, np.int32), np.ones(2, np.int32), np.ones((2, 4)), np.ones(2))
    assert Detections.cat([a]) is a
    both = Detections.cat([a, a])
    assert both.image_ids.dtype == np.int32 and both.boxes.shape == (4, 4)
    assert len(Detections.cat([]).scores) == 0
    third = np.full((1, 4), 1 / 3, dtype=np.float32)
    area = Detections(*np.zeros((2, 1), int), third, np.ones(1)).areas
    assert area.dtype == np.float64 and area[0] == float(third[0, 0]) ** 2


def test_candidates_are_of_one_image_and_take_turns():
    box = [0, 0, 10, 10]
    boxes = np.array([box, [50, 50, 9, 9], box, [0, 0, 10, 5]], dtype=float)
    images = np.array([1, 1, 0, 1])
    gt_boxes = np.array([box, box, [50, 50, 10, 10]], dtype=float)
    found = find_candidates(boxes, images, gt_boxes, np.array([1, 1, 2]), 0.5)
    assert found.detections.tolist() == [0, 0, 3, 3]
    assert found.ground_truth.tolist() == [0, 1, 0, 1]
    assert found.ious.tolist() == [1, 1, 0.5, 0.5]
    assert found.turns.tolist() == [0, 0, 1, 1]


def test_match_takes_the_last_of_equal_ious_and_ignored_ones_only_as_a_last_resort():
    # Three detections over three ground truths, of which the last is ignored in the second area.
    pairs = [(0, 0, 0.6), (0, 1, 0.6), (0, 2, 0.9), (1, 0, 0.7), (1, 2, 0.7), (2, 0, 0.8)]
    detections, ground_truth, ious = map(np.array, zip(*pairs, strict=True))
    candidates = Candidates(detections, ground_truth, ious, detections)
    ignored = np.array([[False, False], [False, False], [False, True]])
    matches = match_greedily(candidates, ignored, np.array([0.5, 0.65]), 4)
    assert matches[:, 0, 0].tolist() == [2, 0, -1, -1]
    assert matches[:, 0, 1].tolist() == [2, 0, -1, -1]
    assert matches[:, 1, 0].tolist() == [1, 0, -1, -1]
    assert matches[:, 1, 1].tolist() == [2, 0, -1, -1]


def test_nothing_to_match():
    none = find_candidates(np.empty((0, 4)), np.empty(0, int), np.ones((1, 4)), np.zeros(1), 0.5)
    assert [len(column) for column in none] == [0] * 4
    assert match_greedily(none, np.zeros((1, 2), bool), np.array([0.5]), 0).shape == (0, 2, 1)
    matches = match_greedily(none, np.zeros((1, 2), bool), np.array([0.5]), 3)
    assert matches.shape == (3, 2, 1) and (matches == -1).all()


def test_precision_is_the_best_at_this_recall_or_a_higher_one():
    tp = np.array([[True], [False], [False], [True], [False]])
    fp = np.array([[False], [True], [False], [False], [True]])  # the third is ignored
    recalls = np.array([0, 0.25, 0.5, 0.75])
    precision, recall = precision_and_recall(tp, fp, 4, recalls)
    np.testing.assert_allclose(precision, [[1, 1, 2 / 3, 0]], rtol=1e-15)
    assert recall.tolist() == [0.5]
    none = np.zeros((0, 1), bool)
    precision, recall = precision_and_recall(none, none, 4, recalls)
    assert precision.tolist() == [[0] * 4] and recall.tolist() == [0]
