"""A folder like the repository's root after ``make demo``, for the code of the pages."""

import shlex
import shutil
import sys
from pathlib import Path
from runpy import run_path

import pytest
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig
from PIL import Image

from gridclip import cli
from gridclip.engine import GridCLIPCheckpointer
from gridclip.engine.prepare import prepare_text_embeddings
from gridclip.engine.train import build_model
from gridclip.predictor import Predictor
from gridclip.text import as_text_embeddings
from pages import PROJECT, ROOT, blocks
from world import tiny_config


@pytest.fixture
def root(tmp_path, monkeypatch, world, tiny_clip):
    """A folder like the repository's root after ``make demo``, with very small detectors."""
    shutil.copytree(PROJECT / "configs", tmp_path / "projects/GridCLIP/configs")
    (tmp_path / "projects/GridCLIP/laptop_world").symlink_to(PROJECT / "laptop_world")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LazyConfig, "load", shrink_production(LazyConfig.load, world, tiny_clip))
    save_detector(LazyConfig.load("projects/GridCLIP/configs/lvis/gridclip_r50_ov_1x.py"), ".")
    save_demo(Path("output/demo"))
    picture = world / "train2017/1.png"
    for name in (
        "street.jpg",
        "pictures/0.png",
        "output/demo/datasets/shapes/shapes_test_val/000000.png",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(picture).save(name)
    for run in ("before", "after"):
        Path("output", run).mkdir()
        Path("output", run, "metrics.json").write_text('{"iteration": 0, "total_loss": 1.0}\n')
    return tmp_path


def shrink_production(load, world: Path, clip: Path):
    """``LazyConfig.load`` that gives the production config in small."""

    def load_small(path: str) -> DictConfig:
        assert Path(path).is_file(), f"no config {path}"
        if Path(path).name == "gridclip_r50_ov_1x.py":
            return tiny_config(world, clip, Path("output/tiny").absolute())
        return load(path)

    return load_small


def save_detector(cfg: DictConfig, folder: str | Path) -> None:
    if not Path(cfg.clip.text_embeddings).is_file():
        prepare_text_embeddings(cfg, instantiate(cfg.data.train))
    cfg.model.federated_weights = None
    GridCLIPCheckpointer(build_model(cfg), str(folder)).save("model_final")


def save_demo(output: Path) -> None:
    """What ``make demo`` leaves, not trained."""
    cfg = LazyConfig.load("projects/GridCLIP/configs/laptop/gridclip.py")
    names = output / "names.txt"
    (output / "run").mkdir(parents=True)
    names.write_text("red star\n")
    text = cfg.clip.text_embeddings = str(output / "datasets/shapes/shapes_test_text.safetensors")
    cfg.clip.names = str(names)
    as_text_embeddings(names, cfg.clip.weights, "single", progress=False).save(text)
    save_detector(cfg, output / "run")
    Predictor(cfg, output / "run/model_final.pth").save(
        output / "detector.safetensors", with_clip=True
    )


def run_page(page: Path, languages: tuple[str, ...] = ("python",)) -> dict:
    """Run a page's blocks one after another; returns what its Python defines.

    Of "sh" other programs than Python and gridclip are left out.
    """
    namespace = {"__name__": "__main__"}
    text = page.read_text()
    for block in sorted(blocks(text), key=lambda block: text.index(block.text)):
        if block.note.startswith("file: "):
            path = Path(block.note.removeprefix("file: "))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language not in languages or not block.runs:
            continue
        elif block.language == "python":
            exec(compile(block.text, str(page), "exec"), namespace)
        else:
            for line in block.text.replace("\\\n", " ").splitlines():
                run_command(shlex.split(line))
    return namespace


def run_command(words: list[str]) -> None:
    """In this process. Raises AssertionError if it fails."""
    try:
        if words[0] == "gridclip":
            cli.main(words[1:])
        elif words[0] == "python":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", words[1:])
                run_path(str(ROOT / words[1]), run_name="__main__")
    except SystemExit as exit:
        assert not exit.code, f"{' '.join(words)}: {exit.code}"
