import json

import pytest
import torch

from benchmark import teacher_passes as script


def test_counts_vectors_bytes_and_extrapolates(tiny_clip, tmp_path):
    path = tmp_path / "passes.json"
    script.main(f"--clip {tiny_clip} --device cpu --runs 1 --regions 5 --json {path}".split())
    record = json.loads(path.read_text())
    dim, passes = record["dim"], record["per_image"]
    assert {name: p["vectors"] for name, p in passes.items()} == {
        "whole": 2,
        "tiles9": 18,
        "regions": 5,
    }
    assert passes["tiles9"]["bytes"] == 18 * dim * 2
    assert passes["regions"]["bytes"] == 5 * (dim * 2 + 16)
    for values in passes.values():
        assert values["lvis_train_hours"] == pytest.approx(values["seconds"] * 100_170 / 3600)
    assert str(tmp_path) not in json.dumps(record)


def test_boxes_lie_in_the_picture_and_are_not_empty():
    boxes = script.random_boxes(1000)
    assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
    assert (boxes <= torch.tensor([script.WIDTH, script.HEIGHT] * 2)).all()
