"""What the outcome of a config's run depends on."""

from detectron2.config import instantiate
from omegaconf import DictConfig

from gridclip.clip_weights import clip_file, sha256_of_file
from gridclip.evaluation.results import jsonable_config


def run_identity(cfg: DictConfig) -> dict:
    """All that the outcome depends on except the code: settings, CLIP's weights and the annotations
    of training and test."""
    described = [instantiate(cfg.data[part]) for part in ("train", "val")]
    return {
        "config": jsonable_config(cfg),
        "clip_sha256": sha256_of_file(clip_file(cfg.clip.weights)),
        "annotations_sha256": {data.name: data.sha256 for data in described},
    }
