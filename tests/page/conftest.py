"""A very small detector for the page, and pictures."""

import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

from box_sizes import spread_boxes
from gridclip.engine import GridCLIPCheckpointer
from gridclip.engine.prepare import prepare_text_embeddings
from gridclip.engine.train import build_model
from gridclip.predictor import Predictor
from world import tiny_config


@pytest.fixture(scope="package")
def predictor(tmp_path_factory, world, tiny_clip):
    """Not trained; its boxes are large and its scores differ."""
    torch.manual_seed(0)
    cfg = tiny_config(world, tiny_clip, tmp_path_factory.mktemp("detector"))
    cfg.data.novel = ["blue thing"]
    cfg.clip.text_embeddings = f"{cfg.train.output_dir}/text.safetensors"
    prepare_text_embeddings(cfg, instantiate(cfg.data.train))
    cfg.model.federated_weights = None
    model = build_model(cfg)
    spread_boxes(model.head)
    torch.nn.init.normal_(model.head.grid_embedding.weight)
    GridCLIPCheckpointer(model, cfg.train.output_dir).save("detector")
    return Predictor(cfg, f"{cfg.train.output_dir}/detector.pth")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "street.png"
    Image.effect_noise((120, 90), 60).convert("RGB").save(path)
    return path


@pytest.fixture
def uploads(tmp_path, monkeypatch):
    """The folder of the page's files."""
    folder = tmp_path / "uploads"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder
