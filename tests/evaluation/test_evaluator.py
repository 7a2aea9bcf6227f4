"""Against lvis-api itself, on small random data sets and on genuine LVIS annotations."""

import copy
import json
import math
import multiprocessing
from pathlib import Path

import lvis.eval
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from lvis import LVIS, LVISEval, LVISResults

from gridclip.data import open_dataset
from gridclip.distributed import leave_process_group
from gridclip.evaluation import OpenVocabularyEvaluator

NUM_CATEGORIES = 12
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


def random_dataset(seed: int, num_images: int = 8) -> dict:
    """LVIS-format annotations; coordinates are multiples of 1/4, exact in float32."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for image_id in range(1, num_images + 1):
        shuffled = (rng.permutation(NUM_CATEGORIES) + 1).tolist()
        positive, negative = shuffled[:4], shuffled[4:7]
        images.append(
            {
                "id": image_id,
                "height": 480,
                "width": 640,
                "coco_url": f"http://images.cocodataset.org/val2017/{image_id:012}.jpg",
                "neg_category_ids": negative,
                "not_exhaustive_category_ids": positive[:1],
            }
        )
        for _ in range(rng.integers(3, 9)):
            x, y = rng.integers(0, 1200, 2) / 4
            w, h = rng.integers(20, 700, 2) / 4
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice(positive)),
                    "bbox": [float(x), float(y), float(w), float(h)],
                    "area": float(w * h),
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
    frequencies = ["r", "c", "f", "f"] * (NUM_CATEGORIES // 4)
    categories = [
        {"id": i, "name": f"thing {i}", "synonyms": [f"thing {i}"], "frequency": frequencies[i - 1]}
        for i in range(1, NUM_CATEGORIES + 1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def random_results(dataset: dict, seed: int, num_extra: int = 10) -> list[dict]:
    """Shifted ground truth, some of it with a wrong class, and random boxes of any category."""
    rng = np.random.default_rng(seed + 1000)
    category_ids = [c["id"] for c in dataset["categories"]]
    results = []
    for annotation in dataset["annotations"]:
        shift = rng.integers(-30, 31, 2) / 4
        x, y, w, h = annotation["bbox"]
        right = rng.random() < 0.8
        results.append(
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"]
                if right
                else int(rng.choice(category_ids)),
                "bbox": [
                    math.floor(4 * (x + shift[0])) / 4,
                    math.floor(4 * (y + shift[1])) / 4,
                    max(1, math.floor(4 * w) / 4),
                    max(1, math.floor(4 * h) / 4),
                ],
                "score": int(rng.integers(1, 1024)) / 1024,
            }
        )
    for image in dataset["images"]:
        for _ in range(num_extra):
            x, y, w, h = (rng.integers(4, 800, 4) / 4).tolist()
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": int(rng.choice(category_ids)),
                    "bbox": [x, y, w, h],
                    "score": int(rng.integers(1, 1024)) / 1024,
                }
            )
    return results


def process(evaluator, dataset: dict, results: list[dict]) -> None:
    """Feed LVIS-format results to the evaluator as a model's outputs."""
    for image in dataset["images"]:
        own = [r for r in results if r["image_id"] == image["id"]]
        boxes = torch.tensor([r["bbox"] for r in own], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((image["height"], image["width"]))
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.tensor([r["score"] for r in own], dtype=torch.float32)
        instances.pred_classes = torch.tensor([r["category_id"] - 1 for r in own]).long()
        evaluator.process([{"image_id": image["id"]}], [{"instances": instances}])


def evaluate(evaluator, dataset: dict, results: list[dict]) -> dict[str, float]:
    evaluator.reset()
    process(evaluator, dataset, results)
    return evaluator.evaluate()["bbox"]


def lvis_api(json_file, results: list[dict], monkeypatch, max_dets: int = 300) -> dict[str, float]:
    """lvis-api as its authors call it, in percent, with the alias that numpy removed put back."""
    with monkeypatch.context() as patched:
        patched.setattr(np, "float", float, raising=False)
        ground_truth = LVIS(str(json_file))
        detections = LVISResults(ground_truth, copy.deepcopy(results), max_dets=max_dets)
        evaluation = LVISEval(ground_truth, detections, "bbox")
        evaluation.run()
    return {
        name: 100 * value if value > -1 else math.nan for name, value in evaluation.results.items()
    }


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Write a data set; returns its file."""

    def write(dataset: dict) -> Path:
        json_file = tmp_path_factory.mktemp("lvis") / "annotations.json"
        json_file.write_text(json.dumps(dataset))
        return json_file

    return write


@pytest.fixture(scope="module")
def describe(write):
    def describe(dataset: dict, **arguments):
        return open_dataset(json=str(write(dataset)), images="pictures", **arguments)

    return describe


def json_file_of(data) -> Path:
    return Path(data.arguments["json"])


@pytest.mark.parametrize("max_dets", [300, 5])
@pytest.mark.parametrize("seed", range(4))
def test_equals_lvis_api(describe, monkeypatch, seed, max_dets):
    dataset = random_dataset(seed)
    results = random_results(dataset, seed)
    data = describe(dataset)
    evaluator = OpenVocabularyEvaluator(data, max_dets_per_image=max_dets)
    metrics = evaluate(evaluator, dataset, results)
    expected = lvis_api(json_file_of(data), results, monkeypatch, max_dets)
    assert set(metrics) == set(METRICS)
    assert 0 < metrics["AP"] < 100
    for metric in METRICS:
        assert metrics[metric] == pytest.approx(expected[metric], abs=1e-9, nan_ok=True)


def test_equals_lvis_api_on_genuine_annotations(describe, shared_data, monkeypatch):
    """LVIS v0.5's own file; of its 100 images the one with a rare object and 19 others."""
    json_file = shared_data / "lvis_val_100.json"
    if not json_file.is_file():
        pytest.skip(f"no {json_file}")
    dataset = json.loads(json_file.read_text())
    rare = {c["id"] for c in dataset["categories"] if c["frequency"] == "r"}
    with_rare = {a["image_id"] for a in dataset["annotations"] if a["category_id"] in rare}
    dataset["images"].sort(key=lambda image: image["id"] not in with_rare)
    kept = {image["id"] for image in dataset["images"][:20]}
    dataset["images"] = [i for i in dataset["images"] if i["id"] in kept]
    dataset["annotations"] = [a for a in dataset["annotations"] if a["image_id"] in kept]

    results = random_results(dataset, 0, num_extra=30)
    data = describe(dataset, novel="rare")
    metrics = evaluate(OpenVocabularyEvaluator(data), dataset, results)
    expected = lvis_api(json_file_of(data), results, monkeypatch)
    for metric in METRICS:
        assert metrics[metric] == pytest.approx(expected[metric], abs=1e-9)
    assert metrics["AP_novel"] == pytest.approx(metrics["APr"])
    assert len(data.novel_classes) == len(rare) == 454
    assert 0 < metrics["AP"] < 100


@pytest.mark.parametrize("seed", range(3))
def test_novel_is_apr_and_base_is_ap_without_the_novel_categories(
    describe, write, monkeypatch, seed
):
    dataset = random_dataset(seed)
    results = random_results(dataset, seed)
    evaluator = OpenVocabularyEvaluator(describe(dataset, novel="rare"))
    metrics = evaluate(evaluator, dataset, results)
    assert metrics["AP_novel"] == pytest.approx(metrics["APr"], abs=1e-9)

    rare = {c["id"] for c in dataset["categories"] if c["frequency"] == "r"}
    base = copy.deepcopy(dataset)
    base["categories"] = [c for c in base["categories"] if c["id"] not in rare]
    base["annotations"] = [a for a in base["annotations"] if a["category_id"] not in rare]
    base_results = [r for r in results if r["category_id"] not in rare]
    expected = lvis_api(write(base), base_results, monkeypatch)
    assert metrics["AP_base"] == pytest.approx(expected["AP"], abs=1e-9)
    assert metrics["AP_base"] != pytest.approx(metrics["AP"])


@settings(max_examples=15)
@given(novel=st.sets(st.integers(0, NUM_CATEGORIES - 1)))
def test_ap_is_the_mean_of_novel_and_base_weighted_by_categories(describe, novel):
    dataset = random_dataset(0, num_images=3)
    names = [f"thing {i + 1}" for i in sorted(novel)]
    evaluator = OpenVocabularyEvaluator(describe(dataset, novel=names))
    metrics = evaluate(evaluator, dataset, random_results(dataset, 0))
    annotated = {a["category_id"] - 1 for a in dataset["annotations"]}
    num_novel, num_base = len(annotated & novel), len(annotated - novel)
    assert math.isnan(metrics["AP_novel"]) == (num_novel == 0)
    assert math.isnan(metrics["AP_base"]) == (num_base == 0)
    total = sum(
        n * ap for n, ap in ((num_novel, metrics["AP_novel"]), (num_base, metrics["AP_base"])) if n
    )
    assert total / len(annotated) == pytest.approx(metrics["AP"])


def test_perfect_detections(describe):
    dataset = random_dataset(0)
    results = [
        {"score": 0.5, **{k: a[k] for k in ("image_id", "category_id", "bbox")}}
        for a in dataset["annotations"]
    ]
    evaluator = OpenVocabularyEvaluator(describe(dataset, novel="rare"))
    metrics = evaluate(evaluator, dataset, results)
    assert metrics == pytest.approx(dict.fromkeys([*METRICS, "AP_novel", "AP_base"], 100))


def test_no_detections_are_ap_0_where_there_is_ground_truth(describe, caplog):
    dataset = random_dataset(0)
    rare = {c["id"] for c in dataset["categories"] if c["frequency"] == "r"}
    dataset["annotations"] = [a for a in dataset["annotations"] if a["category_id"] not in rare]
    evaluator = OpenVocabularyEvaluator(describe(dataset, novel="rare"))
    metrics = evaluate(evaluator, dataset, [])
    assert "detected nothing" in caplog.text
    assert math.isnan(metrics.pop("APr")) and math.isnan(metrics.pop("AP_novel"))
    assert set(metrics.values()) == {0.0}


def test_files_and_per_category_ap(describe, write, monkeypatch, tmp_path):
    dataset = random_dataset(1)
    unseen = 3
    dataset["annotations"] = [a for a in dataset["annotations"] if a["category_id"] != unseen]
    alone_id = dataset["annotations"][0]["category_id"]
    results = random_results(dataset, 1)
    evaluator = OpenVocabularyEvaluator(describe(dataset), output_dir=str(tmp_path))
    metrics = evaluate(evaluator, dataset, results)

    saved = json.loads((tmp_path / "lvis_instances_results.json").read_text())
    key = ("image_id", "category_id", "score", "bbox")
    assert sorted([r[k] for k in key] for r in saved) == sorted(
        [r[k] for k in key] for r in results
    )

    per_category = json.loads((tmp_path / "per_category_ap.json").read_text())
    annotated = {f"thing {a['category_id']}" for a in dataset["annotations"]}
    assert f"thing {unseen}" not in annotated and len(per_category) == NUM_CATEGORIES
    assert {name for name, ap in per_category.items() if ap is not None} == annotated
    assert all(math.isnan(evaluator.per_category[n]) for n in per_category.keys() - annotated)
    per_category = {n: ap for n, ap in per_category.items() if n in annotated}
    assert per_category == {n: evaluator.per_category[n] for n in annotated}
    assert np.mean(list(per_category.values())) == pytest.approx(metrics["AP"])

    # One category's AP is lvis-api's AP of the data set that has no other.
    alone = copy.deepcopy(dataset)
    alone["categories"] = [c for c in alone["categories"] if c["id"] == alone_id]
    alone["annotations"] = [a for a in alone["annotations"] if a["category_id"] == alone_id]
    own = [r for r in results if r["category_id"] == alone_id]
    expected = lvis_api(write(alone), own, monkeypatch)
    assert 0 < expected["AP"] == pytest.approx(per_category[f"thing {alone_id}"])

    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "lvis_instances_results.json",
        "per_category_ap.json",
    ]


def test_groups_of_the_data_set(describe):
    dataset = random_dataset(1)
    groups = {"shape": ["thing 1", "thing 9"], "texture": ["thing 5"]}
    results = random_results(dataset, 1)
    metrics = evaluate(OpenVocabularyEvaluator(describe(dataset, groups=groups)), dataset, results)
    for name, novel in groups.items():
        alone = OpenVocabularyEvaluator(describe(dataset, novel=novel))
        assert metrics[f"APr_{name}"] == evaluate(alone, dataset, results)["AP_novel"]


def test_ids_of_the_file_may_be_any(describe, tmp_path):
    """Other ids of categories, and strings as ids of images, change nothing but what is written."""
    dataset = random_dataset(2)
    results = random_results(dataset, 2)
    expected = evaluate(OpenVocabularyEvaluator(describe(dataset, novel="rare")), dataset, results)
    renumbered = copy.deepcopy(dataset)
    for category in renumbered["categories"]:
        category["id"] *= 10
    for annotation in renumbered["annotations"]:
        annotation["category_id"] *= 10
        annotation["image_id"] = f"picture {annotation['image_id']}"
    for image in renumbered["images"]:
        image["id"] = f"picture {image['id']}"
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [10 * i for i in image[key]]
    data = describe(renumbered, novel="rare")
    assert data.novel_classes == (0, 4, 8)
    evaluator = OpenVocabularyEvaluator(data, output_dir=str(tmp_path))
    named = [{**r, "image_id": f"picture {r['image_id']}"} for r in results]
    assert evaluate(evaluator, renumbered, named) == expected
    written = json.loads((tmp_path / "lvis_instances_results.json").read_text())
    assert {r["category_id"] for r in written} == {10 * r["category_id"] for r in results}
    assert {r["image_id"] for r in written} == {r["image_id"] for r in named}


def test_a_vocabulary_in_another_order_gives_the_same(describe):
    """And classes that the data set does not have are left out."""
    dataset = random_dataset(0)
    results = random_results(dataset, 0)
    evaluator = OpenVocabularyEvaluator(describe(dataset))
    expected = evaluate(evaluator, dataset, results)
    reversed_names = ["something else", *evaluator.data.names[::-1]]
    evaluator.use_vocabulary(reversed_names)
    moved = [{**r, "category_id": NUM_CATEGORIES + 2 - r["category_id"]} for r in results]
    other = [{**r, "category_id": 1, "score": 0.001} for r in results]
    assert evaluate(evaluator, dataset, moved + other) == expected


def test_what_is_applied_is_what_is_said(describe):
    data = describe(random_dataset(0))
    said = OpenVocabularyEvaluator(data, max_dets_per_image=5).protocol()["ap"]
    assert said == "standard, at most 5 detections an image (not Fixed AP)"
    evaluator = OpenVocabularyEvaluator(data)
    evaluator.detector_limit = 100
    assert "at most 100 detections" in evaluator.protocol()["ap"]
    evaluator.detector_limit = 1000
    assert "at most 300 detections" in evaluator.protocol()["ap"]
    fixed = OpenVocabularyEvaluator(data, ap="fixed").protocol()["ap"]
    assert fixed == "Fixed AP, the best 10000 of a category over the set; no limit per image"
    said = OpenVocabularyEvaluator(describe(random_dataset(0), metrics="coco")).protocol()
    assert "pycocotools" in said["evaluator"] and "100 detections" in said["ap"]
    assert "as if categories that the annotation leaves open were absent" in said["evaluator"]


def test_evaluating_twice_gives_the_same(describe, tmp_path):
    dataset = random_dataset(0)
    evaluator = OpenVocabularyEvaluator(describe(dataset), output_dir=str(tmp_path))
    metrics = evaluate(evaluator, dataset, random_results(dataset, 0))
    assert evaluator.evaluate()["bbox"] == metrics


def test_numpy_and_lvis_are_left_as_they_were(describe):
    before = set(vars(np)), lvis.eval.np, LVISEval.accumulate
    dataset = random_dataset(0)
    evaluate(OpenVocabularyEvaluator(describe(dataset)), dataset, random_results(dataset, 0))
    assert (set(vars(np)), lvis.eval.np, LVISEval.accumulate) == before
    assert not hasattr(np, "float")


def test_annotations_of_test_images_are_not_evaluated(describe, tmp_path):
    dataset = random_dataset(0)
    results = random_results(dataset, 0)
    dataset["annotations"] = []
    for image in dataset["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    evaluator = OpenVocabularyEvaluator(describe(dataset), output_dir=str(tmp_path))
    evaluator.reset()
    process(evaluator, dataset, results)
    assert evaluator.evaluate() == {}
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) == len(results)


def test_errors_name_the_file_and_the_fault(describe):
    dataset = random_dataset(0)
    data = describe(dataset)
    beyond = [{"image_id": 1, "category_id": NUM_CATEGORIES + 1, "bbox": [0, 0, 9, 9], "score": 1}]
    with pytest.raises(ValueError, match=r"class 12 .*annotations\.json"):
        evaluate(OpenVocabularyEvaluator(data), dataset, beyond)
    for wrong in (
        dict(ap="best"),
        dict(ap="fixed", max_dets_per_image=300),
        dict(max_dets_per_image=0),
    ):
        with pytest.raises(ValueError, match="take standard or fixed|no limit|at least 1"):
            OpenVocabularyEvaluator(data, **wrong)


@pytest.mark.parametrize("metrics", ["lvis", "coco"])
def test_a_crowd_is_neither_to_be_found_nor_a_mistake(describe, metrics):
    dataset = random_dataset(0)
    perfect = [{"score": 0.5, **a} for a in copy.deepcopy(dataset["annotations"])]
    for annotation in dataset["annotations"][::3]:
        annotation["iscrowd"] = 1
    for results in (perfect, [r for i, r in enumerate(perfect) if i % 3]):
        evaluator = OpenVocabularyEvaluator(describe(dataset, metrics=metrics))
        assert evaluate(evaluator, dataset, results)["AP"] == pytest.approx(100)


def test_only_what_counts_is_written(describe, tmp_path):
    """pycocotools' limit is one of each category: the file holds no more than COCO's limit."""
    dataset = random_dataset(0)
    results = random_results(dataset, 0, num_extra=400)
    data = describe(dataset, metrics="coco")
    evaluator = OpenVocabularyEvaluator(data, str(tmp_path))
    metrics = evaluate(evaluator, dataset, results)
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert len(written) == 100 * len(dataset["images"])
    assert evaluate(OpenVocabularyEvaluator(data), dataset, written) == metrics


def test_odd_detections_are_refused(describe):
    dataset = random_dataset(0)
    evaluator = OpenVocabularyEvaluator(describe(dataset))
    good = random_results(dataset, 0)
    with pytest.raises(ValueError, match="class -1 is not one of"):
        evaluate(evaluator, dataset, [{**good[0], "category_id": 0}])
    with pytest.raises(ValueError, match="In image 1, a score or a box is not finite"):
        evaluate(evaluator, dataset, [{**good[0], "image_id": 1, "score": math.nan}])
    with pytest.raises(ValueError, match="Image 77 is not one of .*annotations.json"):
        evaluator.process([{"image_id": 77}], [{}])
    evaluator.reset()
    with pytest.raises(ValueError, match="0 images were evaluated"):
        evaluator.evaluate()
    process(evaluator, dataset, good)
    process(evaluator, dataset, good)
    with pytest.raises(ValueError, match="16 images were evaluated, 8 different ones"):
        evaluator.evaluate()


def _evaluate_half(rank: int, init_file: str, data, dataset, results, outcomes) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{init_file}", rank=rank, world_size=2
    )
    evaluator = OpenVocabularyEvaluator(data)
    evaluator.reset()
    process(evaluator, {**dataset, "images": dataset["images"][rank::2]}, results)
    outcomes.put((rank, evaluator.evaluate()))
    torch.distributed.barrier()
    leave_process_group()


def test_gathers_the_predictions_of_all_ranks(describe, tmp_path):
    dataset = random_dataset(0)
    results = random_results(dataset, 0)
    data = describe(dataset)
    expected = evaluate(OpenVocabularyEvaluator(data), dataset, results)

    context = multiprocessing.get_context("fork")
    outcomes = context.Queue()
    ranks = [
        context.Process(
            target=_evaluate_half, args=(rank, tmp_path / "init", data, dataset, results, outcomes)
        )
        for rank in range(2)
    ]
    for process_ in ranks:
        process_.start()
    try:
        outcome = dict(outcomes.get(timeout=60) for _ in ranks)
    finally:
        for process_ in ranks:
            process_.join(timeout=10)
            process_.kill()
    assert outcome[1] == {}
    assert outcome[0]["bbox"] == pytest.approx(expected)


def test_a_part_of_the_images_is_evaluated_alone(describe):
    dataset = random_dataset(0)
    results = random_results(dataset, 0)
    part = {**dataset, "images": dataset["images"][:3]}
    kept = {image["id"] for image in part["images"]}
    alone = {**part, "annotations": [a for a in dataset["annotations"] if a["image_id"] in kept]}
    evaluator = OpenVocabularyEvaluator(describe(dataset))
    actual = evaluate(evaluator, part, results)
    results_alone = [r for r in results if r["image_id"] in kept]
    expected = evaluate(OpenVocabularyEvaluator(describe(alone)), alone, results_alone)
    assert actual == pytest.approx(expected, nan_ok=True)
