import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lvis import LVIS

from benchmark import lvis_evaluation as script
from benchmark.lvis_job import make_dataset, make_results

PROJECT = Path(script.__file__).parents[1]  # the folder of the package benchmark


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    path = tmp_path_factory.mktemp("job") / "annotations.json"
    path.write_text(json.dumps(make_dataset(200, seed=3)))
    ground_truth = LVIS(str(path))
    return ground_truth, make_results(ground_truth, seed=3)


def test_the_job_has_the_proportions_of_lvis_val(job):
    ground_truth, results = job
    assert len(ground_truth.cats) == 1203 and len(ground_truth.imgs) == 200
    assert len(ground_truth.anns) / 200 == pytest.approx(12.35, abs=1)
    counts = np.bincount([r["image_id"] for r in results])[1:]
    assert counts.min() >= 300 and np.mean(counts == 300) > 0.99
    for image in ground_truth.imgs.values():
        positive = {a["category_id"] for a in ground_truth.img_ann_map[image["id"]]}
        assert positive and not positive & set(image["neg_category_ids"])
        assert set(image["not_exhaustive_category_ids"]) <= positive
    assert any(image["not_exhaustive_category_ids"] for image in ground_truth.imgs.values())
    scores = [r["score"] for r in results]
    assert len(set(scores)) < len(scores) and 0 < min(scores) <= max(scores) < 1


def test_the_job_is_the_same_for_both(job):
    ground_truth, results = job
    assert make_dataset(200, seed=3) == ground_truth.dataset
    assert make_results(ground_truth, seed=3) == results
    assert make_results(ground_truth, seed=4) != results


def test_peak_is_this_process_s_own():
    """Not that of the larger one that started it."""
    ballast = np.ones(300 << 20, np.uint8)
    code = "from benchmark import lvis_evaluation as script; print(script.peak_kib())"
    command = [sys.executable, "-W", "ignore", "-c", code]
    child = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=True)
    assert 0 < int(child.stdout) < script.peak_kib() - len(ballast) / 2048


@pytest.mark.slow
def test_measures_both_and_finds_them_equal(tmp_path, capsys):
    path = tmp_path / "evaluation.json"
    script.main(["--images", "10", "--json", str(path)])
    record = json.loads(path.read_text())
    for name in ("ours", "lvis_api"):
        assert record[name]["seconds"] > 0 and record[name]["peak_mib"] >= 0
        assert 0 < record[name]["metrics"]["AP"] < 1
    ratio = record["lvis_api"]["seconds"] / record["ours"]["seconds"]
    assert record["lvis_eval_api_over_ours"] == pytest.approx(ratio)
    assert record["max_metric_difference"] == record["max_precision_difference"] == 0
    assert str(tmp_path) not in json.dumps(record)
    assert "lvis_eval_api_over_ours" in capsys.readouterr().out
