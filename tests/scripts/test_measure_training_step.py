import json
import math

import pytest
import torch

import measure_training_step


@pytest.mark.slow
def test_both_detectors_train_and_all_is_written(tmp_path):
    """The production models at a small size: figures mean nothing here, the report's form does."""
    path = tmp_path / "step.json"
    measure_training_step.main(["--size", "64", "96", "--runs", "1", "--json", str(path)])
    record = json.loads(path.read_text())
    assert set(record["time"]["median_seconds"]) == {"step", "image_level_term", "teacher_pass"}
    assert 0 < record["time"]["added_by_store"] < record["time"]["added_by_teacher_in_the_loop"]
    assert set(record["memory"]["peak_mib"]) == {"gridclip", "fcos"}
    for peaks in record["memory"]["peak_mib"].values():
        assert peaks["tensors"] > 0 and math.isfinite(peaks["resident_set"])
    assert record["weights"] == "random" and record["size"] == [64, 96]


def test_peak_counts_tensors_alive_at_once():
    def step():
        a = torch.zeros(2**20)
        b = a + 1
        del a
        return b + 1

    peak = measure_training_step.peak_tensors(step)
    assert 2 * 2**22 <= peak < 2.1 * 2**22
