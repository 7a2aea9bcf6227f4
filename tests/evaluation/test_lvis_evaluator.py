"""Against lvis-api itself, on small random data sets and on genuine LVIS annotations."""

import copy
import json
import math
import multiprocessing
import uuid
from pathlib import Path

import lvis.eval
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from lvis import LVIS, LVISEval, LVISResults

from gridclip.distributed import leave_process_group
from gridclip.evaluation import OpenVocabularyLVISEvaluator

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
def register(tmp_path_factory):
    """Write a data set and register its metadata; returns its name."""
    names = []

    def _register(dataset: dict, **metadata) -> str:
        json_file = tmp_path_factory.mktemp("lvis") / "annotations.json"
        json_file.write_text(json.dumps(dataset))
        names.append(f"lvis_v1_{uuid.uuid4().hex}")
        MetadataCatalog.get(names[-1]).set(json_file=str(json_file), **metadata)
        return names[-1]

    yield _register
    for name in names:
        MetadataCatalog.remove(name)


def json_file_of(name: str) -> Path:
    return Path(MetadataCatalog.get(name).json_file)


@pytest.mark.parametrize("max_dets", [300, 5])
@pytest.mark.parametrize("seed", range(4))
def test_equals_lvis_api(register, monkeypatch, seed, max_dets):
    dataset = random_dataset(seed)
    results = random_results(dataset, seed)
    name = register(dataset)
    evaluator = OpenVocabularyLVISEvaluator(name, max_dets_per_image=max_dets)
    metrics = evaluate(evaluator, dataset, results)
    expected = lvis_api(json_file_of(name), results, monkeypatch, max_dets)
    assert set(metrics) == set(METRICS)
    assert 0 < metrics["AP"] < 100
    for metric in METRICS:
        assert metrics[metric] == pytest.approx(expected[metric], abs=1e-9, nan_ok=True)


def test_equals_lvis_api_on_genuine_annotations(register, shared_data, monkeypatch):
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
    name = register(dataset)
    evaluator = OpenVocabularyLVISEvaluator(name, novel_classes="rare")
    metrics = evaluate(evaluator, dataset, results)
    expected = lvis_api(json_file_of(name), results, monkeypatch)
    for metric in METRICS:
        assert metrics[metric] == pytest.approx(expected[metric], abs=1e-9)
    assert metrics["AP_novel"] == pytest.approx(metrics["APr"])
    assert len(evaluator.novel_classes) == len(rare) == 454
    assert 0 < metrics["AP"] < 100


@pytest.mark.parametrize("seed", range(3))
def test_novel_is_apr_and_base_is_ap_without_the_novel_categories(register, monkeypatch, seed):
    dataset = random_dataset(seed)
    results = random_results(dataset, seed)
    evaluator = OpenVocabularyLVISEvaluator(register(dataset), novel_classes="rare")
    metrics = evaluate(evaluator, dataset, results)
    assert metrics["AP_novel"] == pytest.approx(metrics["APr"], abs=1e-9)

    rare = {c["id"] for c in dataset["categories"] if c["frequency"] == "r"}
    base = copy.deepcopy(dataset)
    base["categories"] = [c for c in base["categories"] if c["id"] not in rare]
    base["annotations"] = [a for a in base["annotations"] if a["category_id"] not in rare]
    base_results = [r for r in results if r["category_id"] not in rare]
    expected = lvis_api(json_file_of(register(base)), base_results, monkeypatch)
    assert metrics["AP_base"] == pytest.approx(expected["AP"], abs=1e-9)
    assert metrics["AP_base"] != pytest.approx(metrics["AP"])


@settings(max_examples=15)
@given(novel=st.sets(st.integers(0, NUM_CATEGORIES - 1)))
def test_ap_is_the_mean_of_novel_and_base_weighted_by_categories(register, novel):
    dataset = random_dataset(0, num_images=3)
    evaluator = OpenVocabularyLVISEvaluator(register(dataset), novel_classes=sorted(novel))
    metrics = evaluate(evaluator, dataset, random_results(dataset, 0))
    annotated = {a["category_id"] - 1 for a in dataset["annotations"]}
    num_novel, num_base = len(annotated & novel), len(annotated - novel)
    assert math.isnan(metrics["AP_novel"]) == (num_novel == 0)
    assert math.isnan(metrics["AP_base"]) == (num_base == 0)
    total = sum(
        n * ap for n, ap in ((num_novel, metrics["AP_novel"]), (num_base, metrics["AP_base"])) if n
    )
    assert total / len(annotated) == pytest.approx(metrics["AP"])


def test_perfect_detections(register):
    dataset = random_dataset(0)
    results = [
        {"score": 0.5, **{k: a[k] for k in ("image_id", "category_id", "bbox")}}
        for a in dataset["annotations"]
    ]
    evaluator = OpenVocabularyLVISEvaluator(register(dataset), novel_classes="rare")
    metrics = evaluate(evaluator, dataset, results)
    assert metrics == pytest.approx(dict.fromkeys([*METRICS, "AP_novel", "AP_base"], 100))


def test_no_detections_are_ap_0_where_there_is_ground_truth(register, caplog):
    dataset = random_dataset(0)
    rare = {c["id"] for c in dataset["categories"] if c["frequency"] == "r"}
    dataset["annotations"] = [a for a in dataset["annotations"] if a["category_id"] not in rare]
    evaluator = OpenVocabularyLVISEvaluator(register(dataset), novel_classes="rare")
    metrics = evaluate(evaluator, dataset, [])
    assert "detected nothing" in caplog.text
    assert math.isnan(metrics.pop("APr")) and math.isnan(metrics.pop("AP_novel"))
    assert set(metrics.values()) == {0.0}


def test_files_and_per_category_ap(register, monkeypatch, tmp_path):
    dataset = random_dataset(1)
    unseen = 3
    dataset["annotations"] = [a for a in dataset["annotations"] if a["category_id"] != unseen]
    alone_id = dataset["annotations"][0]["category_id"]
    results = random_results(dataset, 1)
    name = register(dataset)
    evaluator = OpenVocabularyLVISEvaluator(name, output_dir=str(tmp_path))
    metrics = evaluate(evaluator, dataset, results)

    saved = json.loads((tmp_path / "lvis_instances_results.json").read_text())
    key = ("image_id", "category_id", "score", "bbox")
    assert sorted([r[k] for k in key] for r in saved) == sorted(
        [r[k] for k in key] for r in results
    )
    assert (tmp_path / "instances_predictions.pth").is_file()

    per_category = json.loads((tmp_path / "lvis_per_category_ap.json").read_text())
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
    expected = lvis_api(json_file_of(register(alone)), own, monkeypatch)
    assert 0 < expected["AP"] == pytest.approx(per_category[f"thing {alone_id}"])

    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "instances_predictions.pth",
        "lvis_instances_results.json",
        "lvis_per_category_ap.json",
    ]


def test_novel_classes_of_the_metadata(register):
    dataset = random_dataset(0)
    name = register(dataset, novel_classes=[7, 2])
    assert OpenVocabularyLVISEvaluator(name).novel_classes == [2, 7]
    assert OpenVocabularyLVISEvaluator(name, novel_classes="rare").novel_classes == [0, 4, 8]


def test_novel_axes_of_the_metadata(register):
    dataset = random_dataset(1)
    axes = {"shape": [0, 8], "texture": [4]}
    name = register(dataset, novel_classes=[0, 4, 8], novel_axes=axes)
    results = random_results(dataset, 1)
    metrics = evaluate(OpenVocabularyLVISEvaluator(name), dataset, results)
    for axis, classes in axes.items():
        alone = OpenVocabularyLVISEvaluator(name, novel_classes=classes)
        assert metrics[f"APr_{axis}"] == evaluate(alone, dataset, results)["AP_novel"]


def test_category_mapping_of_the_metadata(register):
    """Contiguous ids follow thing_dataset_id_to_contiguous_id where the data set has one."""
    dataset = random_dataset(2)
    results = random_results(dataset, 2)
    expected = evaluate(
        OpenVocabularyLVISEvaluator(register(dataset), novel_classes="rare"), dataset, results
    )
    renumbered = copy.deepcopy(dataset)
    for category in renumbered["categories"]:
        category["id"] *= 10
    for annotation in renumbered["annotations"]:
        annotation["category_id"] *= 10
    for image in renumbered["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [10 * i for i in image[key]]
    mapping = {10 * i: i - 1 for i in range(1, NUM_CATEGORIES + 1)}
    name = register(renumbered, thing_dataset_id_to_contiguous_id=mapping)
    evaluator = OpenVocabularyLVISEvaluator(name, novel_classes="rare")
    assert evaluator.novel_classes == [0, 4, 8]
    assert evaluate(evaluator, renumbered, results) == expected


def test_evaluating_twice_gives_the_same(register, tmp_path):
    dataset = random_dataset(0)
    evaluator = OpenVocabularyLVISEvaluator(register(dataset), output_dir=str(tmp_path))
    metrics = evaluate(evaluator, dataset, random_results(dataset, 0))
    assert evaluator.evaluate()["bbox"] == metrics


def test_numpy_and_lvis_are_left_as_they_were(register):
    before = set(vars(np)), lvis.eval.np, LVISEval.accumulate
    dataset = random_dataset(0)
    evaluate(OpenVocabularyLVISEvaluator(register(dataset)), dataset, random_results(dataset, 0))
    assert (set(vars(np)), lvis.eval.np, LVISEval.accumulate) == before
    assert not hasattr(np, "float")


def test_annotations_of_test_images_are_not_evaluated(register, tmp_path):
    dataset = random_dataset(0)
    results = random_results(dataset, 0)
    dataset["annotations"] = []
    for image in dataset["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    evaluator = OpenVocabularyLVISEvaluator(register(dataset), output_dir=str(tmp_path))
    evaluator.reset()
    process(evaluator, dataset, results)
    assert evaluator.evaluate() == {}
    assert len(json.loads((tmp_path / "lvis_instances_results.json").read_text())) == len(results)


def test_errors_name_the_file_and_the_fault(register):
    dataset = random_dataset(0)
    name = register(dataset)
    with pytest.raises(ValueError, match="unusual"):
        OpenVocabularyLVISEvaluator(name, novel_classes="unusual")
    with pytest.raises(ValueError, match=r"\[12\] are not among the 12 .*annotations\.json"):
        OpenVocabularyLVISEvaluator(name, novel_classes=[0, NUM_CATEGORIES])
    beyond = [{"image_id": 1, "category_id": NUM_CATEGORIES + 1, "bbox": [0, 0, 9, 9], "score": 1}]
    with pytest.raises(ValueError, match=r"class 12 .*annotations\.json"):
        evaluate(OpenVocabularyLVISEvaluator(name), dataset, beyond)
    no_frequency = copy.deepcopy(dataset)
    del no_frequency["categories"][4]["frequency"]
    with pytest.raises(ValueError, match=r"annotations\.json: category 5 lacks frequency"):
        OpenVocabularyLVISEvaluator(register(no_frequency))
    no_negatives = copy.deepcopy(dataset)
    del no_negatives["images"][0]["neg_category_ids"]
    with pytest.raises(ValueError, match=r"annotations\.json: image 1 lacks neg_category_ids"):
        OpenVocabularyLVISEvaluator(register(no_negatives))


def _evaluate_half(rank: int, init_file: str, name: str, dataset, results, outcomes) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{init_file}", rank=rank, world_size=2
    )
    evaluator = OpenVocabularyLVISEvaluator(name)
    evaluator.reset()
    process(evaluator, {**dataset, "images": dataset["images"][rank::2]}, results)
    outcomes.put((rank, evaluator.evaluate()))
    torch.distributed.barrier()
    leave_process_group()


def test_gathers_the_predictions_of_all_ranks(register, tmp_path):
    dataset = random_dataset(0)
    results = random_results(dataset, 0)
    name = register(dataset)
    expected = evaluate(OpenVocabularyLVISEvaluator(name), dataset, results)

    context = multiprocessing.get_context("fork")
    outcomes = context.Queue()
    ranks = [
        context.Process(
            target=_evaluate_half, args=(rank, tmp_path / "init", name, dataset, results, outcomes)
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
    assert outcome[1] is None
    assert outcome[0]["bbox"] == pytest.approx(expected)


def test_a_part_of_the_images_is_evaluated_alone(register):
    dataset = random_dataset(0)
    results = random_results(dataset, 0)
    part = {**dataset, "images": dataset["images"][:3]}
    kept = {image["id"] for image in part["images"]}
    alone = {**part, "annotations": [a for a in dataset["annotations"] if a["image_id"] in kept]}
    evaluator = OpenVocabularyLVISEvaluator(register(dataset))
    actual = evaluate(evaluator, part, results)
    assert evaluator.image_ids == sorted(kept)
    results_alone = [r for r in results if r["image_id"] in kept]
    expected = evaluate(OpenVocabularyLVISEvaluator(register(alone)), alone, results_alone)
    assert actual == pytest.approx(expected, nan_ok=True)
