"""Evaluation, compilation, the teacher's pass and the measurement of speed on a device."""

import json
import shutil

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate

import compare_speed
from benchmark.roster import CONFIGS
from gridclip.data.embedding_store import EmbeddingStore
from gridclip.data.regions import Windows
from gridclip.data.teacher import precompute_embeddings
from gridclip.engine import do_eval_only
from gridclip.evaluation import read_results
from gridclip.predictor import Predictor
from world import save_untrained_gridclip, save_untrained_vild

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def detectors(world, tiny_clip, tmp_path_factory):
    """Folders of config.yaml and detector.pth; not trained."""
    return {
        "gridclip": save_untrained_gridclip(world, tiny_clip, tmp_path_factory.mktemp("gridclip")),
        "vild": save_untrained_vild("text", world, tiny_clip, tmp_path_factory.mktemp("vild")),
    }


def evaluate(folder, device, output, **inference):
    cfg = LazyConfig.load(str(folder / "config.yaml"))
    cfg.train.update(device=device, output_dir=str(output))
    cfg.train.init_checkpoint = str(folder / "detector.pth")
    cfg.train.inference.update(inference)
    do_eval_only(cfg)
    detections = json.loads((output / "lvis_instances_results.json").read_text())
    return read_results(output / "results.json"), detections


@pytest.mark.parametrize("family", ["gridclip", "vild"])
def test_evaluation_is_the_cpus(detectors, tmp_path, device, family):
    results, detections = evaluate(detectors[family], device, tmp_path / "device")
    expected, on_cpu = evaluate(detectors[family], "cpu", tmp_path / "cpu")
    assert results["device"] != "cpu" or device == "cpu"
    assert len(detections) == len(on_cpu)
    metrics = expected["metrics"]["bbox"]
    assert results["metrics"]["bbox"] == pytest.approx(metrics, nan_ok=True, abs=0.5)
    scores, expected_scores = (
        np.sort([x["score"] for x in found]) for found in (detections, on_cpu)
    )
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_evaluation_in_half_precision(detectors, tmp_path, device, dtype):
    results, _ = evaluate(detectors["gridclip"], device, tmp_path / "half", dtype=dtype)
    expected, _ = evaluate(detectors["gridclip"], device, tmp_path / "whole")
    for name in ("AP", "APr"):
        assert results["metrics"]["bbox"][name] == pytest.approx(
            expected["metrics"]["bbox"][name], abs=5.0
        )


# Those of a CPU are tests/modeling/test_inference.py and tests/scripts/test_compare_speed.py: both
# take minutes.
@pytest.mark.gpu
@needs_compiler
def test_compiled_inference(detectors, world, device="cuda"):
    folder, picture = detectors["gridclip"], world / "train2017/1.png"
    found = [
        Predictor(
            folder / "config.yaml",
            folder / "detector.pth",
            overrides=[f"train.inference.compile={compiled}"],
            device=device,
        )(picture, threshold=0.0)
        for compiled in (False, True)
    ]
    for prediction in found:
        assert len(prediction.scores)
    torch.testing.assert_close(found[0].scores, found[1].scores, rtol=1e-3, atol=1e-4)


def test_the_teachers_pass_is_the_cpus(detectors, tiny_clip, tmp_path, device):
    """On a GPU it is in float16."""
    cfg = LazyConfig.load(str(detectors["gridclip"] / "config.yaml"))
    records = instantiate(cfg.dataloader.test.dataset)
    stores = {}
    for name in dict.fromkeys((device, "cpu")):
        path = tmp_path / name
        precompute_embeddings(
            *(list(records), "toy", path, tiny_clip, Windows("tiles9", True)),
            num_workers=0,
            device=name,
        )
        stores[name] = EmbeddingStore.open(path)
    for record in records:
        _, found = stores[device].lookup(record["image_id"])
        _, expected = stores["cpu"].lookup(record["image_id"])
        assert found.shape == (9, 32)
        cosines = (found.astype(np.float32) * expected.astype(np.float32)).sum(axis=1)
        np.testing.assert_allclose(cosines, 1.0, atol=2e-3)


@pytest.mark.gpu
def test_speed_is_measured(tiny_clip, tmp_path, device="cuda"):
    paths = []
    for name, source in (("gridclip", "gridclip_r50_ov_1x"), ("vild", "vild_text_r50_ov")):
        cfg = LazyConfig.load(str(CONFIGS / f"{source}.py"))
        cfg.clip.update(weights=str(tiny_clip), text_embeddings=str(tmp_path / "none.safetensors"))
        cfg.model.backbone.bottom_up.update(
            layers=(1, 1, 1, 1), width=8, embed_dim=32, input_resolution=64
        )
        cfg.model.backbone.out_channels = 64
        cfg.model.classifier.embed_dim = 32
        paths.append(str(tmp_path / f"{name}.yaml"))
        LazyConfig.save(cfg, paths[-1])
    options = f"--quick --device {device} --size 64 96 --runs 2 --json {tmp_path / 'speed.json'}"
    compare_speed.main(["--config-file", *paths, *options.split()])
    record = json.loads((tmp_path / "speed.json").read_text())
    assert record["setup"]["device"] == device
    assert all(step["step"] > 0 for step in record["training"].values())
