"""Fixed AP against a plain implementation of Dave et al., "Evaluating Large-Vocabulary Object
Detectors": no limit per image, and the best detections of a category over the whole set."""

import copy

import numpy as np
import pytest

from formats import FORMATS, imperfect, process
from gridclip.data import all_records, open_dataset
from gridclip.evaluation import OpenVocabularyEvaluator, evaluator

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)


def overlap(detection: list[float], truth: dict) -> float:
    """IoU; with a crowd, the share of the detection that is inside."""
    x, y, w, h = detection
    u, v, s, t = truth["bbox"]
    inside = max(0.0, min(x + w, u + s) - max(x, u)) * max(0.0, min(y + h, v + t) - max(y, v))
    return inside / (w * h if truth.get("iscrowd") else w * h + s * t - inside)


def match(detections: list[dict], truths: list[dict], iou: float) -> list[str]:
    """Of detections in one image, best first, each: "hit", "miss", or "ignored" for a crowd's."""
    taken, verdicts = set(), []
    for d in detections:
        best, best_key = None, (False, iou)
        for i, truth in enumerate(truths):
            crowd = bool(truth.get("iscrowd"))
            key = (not crowd, overlap(d["bbox"], truth))
            if (crowd or i not in taken) and key[1] >= iou and key >= best_key:
                best, best_key = i, key
        if best is None:
            verdicts.append("miss")
        else:
            taken.add(best)
            verdicts.append("ignored" if truths[best].get("iscrowd") else "hit")
    return verdicts


def average_precision(verdicts: list[str], num_truths: int) -> float:
    counted = np.array([v == "hit" for v in verdicts if v != "ignored"], dtype=float)
    precision, recall = np.zeros(len(RECALLS)), np.cumsum(counted) / num_truths
    exact = np.cumsum(counted) / np.arange(1, len(counted) + 1)
    for i, r in enumerate(RECALLS):
        precision[i] = max(exact[recall >= r], default=0.0)
    return float(precision.mean())


def fixed_ap(made: dict, results: list[dict], count: int) -> dict[int, float]:
    """AP in percent by category."""
    aps = {}
    images = sorted(made["images"], key=lambda image: image["id"])
    for category in sorted({a["category_id"] for a in made["annotations"]}):
        own = [r for r in results if r["category_id"] == category]
        own = sorted(own, key=lambda r: -r["score"])[:count]
        truths = [a for a in made["annotations"] if a["category_id"] == category]
        num_truths = sum(not a.get("iscrowd") for a in truths)
        if not num_truths:
            continue
        of_ious = []
        for iou in IOUS:
            verdicts: list[tuple[float, str]] = []
            for image in images:
                here = [r for r in own if r["image_id"] == image["id"]]
                shown = [a for a in truths if a["image_id"] == image["id"]]
                absent = image.get("neg_category_ids")
                if absent is not None and not shown and category not in absent:
                    continue  # not known
                found = match(here, shown, iou)
                if category in image.get("not_exhaustive_category_ids", ()):
                    found = ["ignored" if v == "miss" else v for v in found]
                verdicts += [(r["score"], v) for r, v in zip(here, found, strict=True)]
            verdicts.sort(key=lambda pair: -pair[0])
            of_ious.append(average_precision([v for _, v in verdicts], num_truths))
        aps[category] = 100 * float(np.mean(of_ious))
    return aps


@pytest.fixture(params=["coco", "lvis"])
def benchmark(request, tmp_path):
    """The data set, what its file says, and many detections an image, as records give them."""
    where, made = FORMATS[request.param].write(tmp_path)
    data = open_dataset(**where)
    order = list(data.annotations.image_ids)
    results = imperfect(made, more=200)
    assert len(results) > 200 * len(order) > 0
    return data, made, sorted(results, key=lambda r: order.index(r["image_id"]))


def evaluate(data, results, **options) -> OpenVocabularyEvaluator:
    evaluator = OpenVocabularyEvaluator(data, **options)
    process(evaluator, data, results, all_records(data))
    evaluator.metrics_of_test = evaluator.evaluate()["bbox"]
    return evaluator


@pytest.mark.parametrize("count", [10_000, 40, 5])
def test_equals_the_plain_implementation(benchmark, count, monkeypatch):
    data, made, results = benchmark
    monkeypatch.setattr(evaluator, "_FIXED_AP_DETS", count)
    ours = evaluate(data, results, ap="fixed")
    expected = fixed_ap(made, results, count)
    by_name = dict(zip(data.names, data.category_ids, strict=True))
    found = {by_name[n]: ap for n, ap in ours.per_category.items() if not np.isnan(ap)}
    assert found.keys() == expected.keys()
    for category, ap in expected.items():
        assert found[category] == pytest.approx(ap, abs=1e-9)
    assert ours.metrics_of_test["AP"] == pytest.approx(np.mean(list(expected.values())), abs=1e-9)
    assert f"the best {count} of a category" in ours.protocol()["ap"]


def test_the_cut_matters(benchmark, monkeypatch):
    data, made, results = benchmark
    aps = {count: np.mean(list(fixed_ap(made, results, count).values())) for count in (5, 10_000)}
    assert 0 < aps[5] < aps[10_000] - 0.1


def test_it_is_another_figure_than_the_standard_one(benchmark):
    """With a limit of 20 an image, most of 200 do not count."""
    data, _, results = benchmark
    fixed, standard = evaluate(data, results, ap="fixed"), evaluate(data, results)
    short = evaluate(data, results, max_dets_per_image=20)
    assert short.metrics_of_test["AP"] != fixed.metrics_of_test["AP"]
    assert "no limit per image" in fixed.protocol()["ap"]
    limit = {"coco": 100, "lvis": 300}[data.metrics]
    assert f"at most {limit} detections an image" in standard.protocol()["ap"]


def test_order_of_the_images_does_not_matter(benchmark, monkeypatch):
    """Of equal scores at the cut, another one may count; without them nothing changes."""
    data, _, results = benchmark
    rng = np.random.default_rng(0)
    results = copy.deepcopy(results)
    for r, score in zip(results, rng.permutation(len(results)), strict=True):
        r["score"] = (int(score) + 1) / 2**15
    monkeypatch.setattr(evaluator, "_FIXED_AP_DETS", 5)
    forward, backward = (OpenVocabularyEvaluator(data, ap="fixed") for _ in range(2))
    records = list(all_records(data))
    process(forward, data, results, records)
    process(backward, data, results, records[::-1])
    assert forward.evaluate() == backward.evaluate()


def test_a_limit_an_image_is_refused(benchmark):
    with pytest.raises(ValueError, match="no limit per image"):
        OpenVocabularyEvaluator(benchmark[0], ap="fixed", max_dets_per_image=300)
