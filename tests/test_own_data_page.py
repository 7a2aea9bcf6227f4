"""The example of docs/own-data.md, from top to bottom, with fewer steps."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from gridclip.evaluation import read_results
from pages import blocks

ROOT = Path(__file__).parents[1]
FEW_STEPS = ["train.max_iter=2", "train.ema.enabled=False", "clip.templates=single"]


@pytest.fixture
def root(tmp_path, shared_data, monkeypatch):
    """A folder like the repository's root, with the data beside it."""
    if not (shared_data / "bccd").is_dir():
        pytest.skip("no bccd/ among the test data")
    for name in ("projects", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bccd").symlink_to(shared_data / "bccd")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str) -> None:
    words = shlex.split(line)
    assert words[0] == "python"
    if "train_net.py" in line:
        words += FEW_STEPS
    if "audit_split.py" in line:
        words += ["--steps", "2"]
    path = {"PYTHONPATH": str(ROOT / "projects/GridCLIP"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words[1:]], env=os.environ | path, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
def test_the_example_from_top_to_bottom(root):
    examples = [b for b in blocks((ROOT / "docs/own-data.md").read_text()) if b.note == "example"]
    assert [b.language for b in examples] == ["sh", "sh", "python", "sh"]
    for block in examples:
        if block.language == "python":
            exec(compile(block.text, "own-data.md", "exec"), {})
        else:
            for line in block.text.replace("\\\n", " ").splitlines():
                run(line)
    closed = read_results(root / "output/bccd/gridclip/results.json")
    assert (closed["protocol"]["images"], closed["protocol"]["categories"]) == (72, 3)
    assert "AP_novel" not in closed["metrics"]["bbox"]
    opened = read_results(root / "output/bccd/open/results.json")
    assert opened["data"]["novel"] == ["WBC"] and "AP_novel" in opened["metrics"]["bbox"]
    report = root / "output/bccd/gridclip/report"
    assert len(list((report / "pictures/gridclip").glob("*.jpg"))) == 20
    assert "called right" in (report / "index.html").read_text()
    assert Image.open(root / "cells.jpg").size == (640, 480)
