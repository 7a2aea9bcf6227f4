"""The production config on real photographs, from random weights of RN50's true sizes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gridclip.data.embedding_store import EmbeddingStore
from gridclip.data.proposal_store import ProposalStore
from gridclip.evaluation import read_results
from gridclip.text import TextEmbeddings

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "projects/GridCLIP"
SMOKE = PROJECT / "configs/lvis/gridclip_r50_ov_smoke.py"
VILD_SMOKE = PROJECT / "configs/lvis/vild_r50_ov_smoke.py"


TRAIN, VAL = 24, 10


@pytest.fixture(scope="module")
def datasets(mini_datasets, tmp_path_factory):
    """A DETECTRON2_DATASETS with some of the photographs: the teacher takes long for all."""
    root = tmp_path_factory.mktemp("datasets")
    (root / "coco").symlink_to(mini_datasets / "coco")
    (root / "lvis").mkdir()
    for name, count in (("lvis_v1_train.json", TRAIN), ("lvis_v1_val.json", VAL)):
        content = json.loads((mini_datasets / "lvis" / name).read_text())
        content["images"] = content["images"][:count]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        (root / "lvis" / name).write_text(json.dumps(content))
    return root


def run(datasets, *command):
    process = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "DETECTRON2_DATASETS": str(datasets)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.returncode == 0, process.stdout[-4000:]
    return process.stdout


@pytest.mark.slow
def test_production_config_trains_resumes_and_evaluates(datasets, tmp_path):
    output = tmp_path / "run"
    train = (PROJECT / "train_net.py", "--config-file", SMOKE, f"train.output_dir={output}")
    run(datasets, *train)

    store = EmbeddingStore.open(output / "image_embeddings")
    assert len(store.manifest.image_ids) == TRAIN
    assert store.manifest.arrays["embeddings"][0] == (TRAIN, 1, 2, 1024)
    text = TextEmbeddings.load(output / "text_embeddings.safetensors")
    assert len(text) == 1203 and text.clip_sha256 == store.manifest.teacher_sha256

    results = read_results(output / "results.json")
    assert results["iterations"] == 4
    assert results["protocol"]["dataset"] == "lvis_v1_val"
    assert results["protocol"]["images"] == VAL
    assert results["protocol"]["novel_classes"] == 337
    assert 0 <= results["metrics"]["bbox"]["AP"] <= 100

    printed = run(datasets, *train[:3], "--resume", *train[3:], "train.max_iter=6")
    assert "Starting training from iteration 4" in printed
    assert read_results(output / "results.json")["iterations"] == 6

    run(datasets, ROOT / "scripts/visualize.py", "results", output)
    report = output / "report"
    assert (report / "losses.png").is_file() and list(report.glob("pictures/run/*.jpg"))


@pytest.mark.slow
def test_vild_from_text_over_proposals_and_regions_to_the_ensemble(datasets, tmp_path):
    text, output, proposals = (tmp_path / name for name in ("text", "run", "proposals"))
    train = (PROJECT / "train_net.py", "--config-file", VILD_SMOKE)
    shared = f"clip.text_embeddings={tmp_path / 'text.safetensors'}"
    without = "dataloader.train.mapper.embeddings=null"
    weight = "model.roi_heads.distillation_weight=0"
    run(datasets, *train, f"train.output_dir={text}", shared, weight, without)
    results = read_results(text / "results.json")
    assert results["iterations"] == 4 and results["protocol"]["novel_classes"] == 337

    options = ("--weights", text / "model_final.pth", "--output", proposals, "--num-workers", "0")
    script = ROOT / "scripts/precompute.py"
    most = ("--max-proposals", "1", "--opts", shared)
    printed = run(datasets, script, "proposals", *train[1:], *options, *most)
    assert f"{TRAIN} of {TRAIN} images done" in printed and "warning: the config" not in printed

    ensemble = "model.roi_heads.image_head=${.box_head}"
    settings = (f"train.output_dir={output}", f"clip.proposals={proposals}", shared, ensemble)
    run(datasets, *train, *settings)
    regions, store = (
        EmbeddingStore.open(output / "region_embeddings"),
        ProposalStore.open(proposals),
    )
    assert regions.manifest.dim == 1024 and regions.counts.tolist() == store.counts.tolist()
    assert regions.manifest.regions_sha256 == store.digest()
    results = read_results(output / "results.json")
    assert results["protocol"]["images"] == VAL
    assert 0 <= results["metrics"]["bbox"]["AP"] <= 100

    printed = run(datasets, *train, "--resume", *settings, "train.max_iter=6")
    assert "Starting training from iteration 4" in printed
    assert read_results(output / "results.json")["iterations"] == 6
