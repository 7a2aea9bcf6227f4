"""The production config on real photographs, from random weights of RN50's true sizes."""

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
def test_production_config_trains_resumes_and_evaluates(mini_datasets, tmp_path):
    output = tmp_path / "run"
    train = (PROJECT / "train_net.py", "--config-file", SMOKE, f"train.output_dir={output}")
    run(mini_datasets, *train)

    store = EmbeddingStore.open(output / "image_embeddings")
    assert len(store.manifest.image_ids) == 128
    assert store.manifest.arrays["embeddings"][0] == (128, 1, 2, 1024)
    text = TextEmbeddings.load(output / "text_embeddings.safetensors")
    assert len(text) == 1203 and text.clip_sha256 == store.manifest.teacher_sha256

    results = read_results(output / "results.json")
    assert results["iterations"] == 4
    assert results["protocol"]["dataset"] == "lvis_v1_val"
    assert results["protocol"]["images"] == 10
    assert results["protocol"]["novel_classes"] == 337
    assert 0 <= results["metrics"]["bbox"]["AP"] <= 100

    printed = run(mini_datasets, *train[:3], "--resume", *train[3:], "train.max_iter=6")
    assert "Starting training from iteration 4" in printed
    assert read_results(output / "results.json")["iterations"] == 6

    run(mini_datasets, ROOT / "scripts/visualize.py", "results", output)
    report = output / "report"
    assert (report / "losses.png").is_file() and list(report.glob("pictures/run/*.jpg"))


@pytest.mark.slow
def test_vild_from_text_over_proposals_and_regions_to_the_ensemble(mini_datasets, tmp_path):
    text, output, proposals = (tmp_path / name for name in ("text", "run", "proposals"))
    train = (PROJECT / "train_net.py", "--config-file", VILD_SMOKE)
    shared = f"clip.text_embeddings={tmp_path / 'text.safetensors'}"
    without = "dataloader.train.mapper.embeddings=null"
    weight = "model.roi_heads.distillation_weight=0"
    run(mini_datasets, *train, f"train.output_dir={text}", shared, weight, without)
    results = read_results(text / "results.json")
    assert results["iterations"] == 4 and results["protocol"]["novel_classes"] == 337

    options = ("--weights", text / "model_final.pth", "--output", proposals, "--num-workers", "0")
    script = ROOT / "scripts/precompute.py"
    most = ("--max-proposals", "1", "--opts", shared)
    printed = run(mini_datasets, script, "proposals", *train[1:], *options, *most)
    assert "128 of 128 images done" in printed and "warning: the config" not in printed

    ensemble = "model.roi_heads.image_head=${.box_head}"
    settings = (f"train.output_dir={output}", f"clip.proposals={proposals}", shared, ensemble)
    run(mini_datasets, *train, *settings)
    regions, store = (
        EmbeddingStore.open(output / "region_embeddings"),
        ProposalStore.open(proposals),
    )
    assert regions.manifest.dim == 1024 and regions.counts.tolist() == store.counts.tolist()
    assert regions.manifest.regions_sha256 == store.digest()
    results = read_results(output / "results.json")
    assert results["protocol"]["images"] == 10
    assert 0 <= results["metrics"]["bbox"]["AP"] <= 100

    printed = run(mini_datasets, *train, "--resume", *settings, "train.max_iter=6")
    assert "Starting training from iteration 4" in printed
    assert read_results(output / "results.json")["iterations"] == 6
