"""A very small detector, and what is exported of it."""

from pathlib import Path

import torch
from detectron2.config import instantiate

from box_sizes import spread_boxes
from gridclip.engine import GridCLIPCheckpointer
from gridclip.engine.prepare import prepare_text_embeddings
from gridclip.engine.train import build_model
from gridclip.predictor import Predictor
from world import tiny_config


def make_detector(folder: Path, world: Path, clip: Path, *overrides: str) -> Predictor:
    """Not trained, with boxes of some size; two levels, as fewer nodes export faster, the last of
    a few cells."""
    cfg = tiny_config(world, clip, folder)
    cfg.model.head.num_levels = 2
    cfg.model.head_in_features = ["p4", "p7"]
    cfg.model.test_topk_locations, cfg.model.test_topk_candidates = 20, 50
    prepare_text_embeddings(cfg, instantiate(cfg.data.train))
    cfg.model.federated_weights = None
    torch.manual_seed(0)
    model = build_model(cfg)
    spread_boxes(model.head)
    torch.nn.init.normal_(model.head.grid_embedding.weight)
    GridCLIPCheckpointer(model, str(folder)).save("detector")
    return Predictor(cfg, folder / "detector.pth", overrides=overrides, device="cpu")
