"""What the outcome of a config's run depends on."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import instantiate
from omegaconf import DictConfig

from gridclip.clip_weights import clip_file
from gridclip.evaluation.results import jsonable_config
from gridclip.files import sha256_of_file


def run_identity(cfg: DictConfig) -> dict:
    """All that the outcome depends on except the code: settings, CLIP's weights and the annotations
    of training and test."""
    described = [instantiate(cfg.data[part]) for part in ("train", "val")]
    return {
        "config": jsonable_config(cfg),
        "clip_sha256": sha256_of_file(clip_file(cfg.clip.weights)),
        "annotations_sha256": {data.name: data.sha256 for data in described},
    }


def without_folders(value: Any, folders: Mapping[str, str]) -> Any:
    """A copy of a JSON value whose paths below a folder begin with a word in its place, so that it
    is the same wherever the folder lies.

    Args:
        folders: the word by folder; the first that fits is taken.
    """
    if isinstance(value, dict):
        return {key: without_folders(item, folders) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item, folders) for item in value]
    if isinstance(value, str):
        for folder, word in folders.items():
            if value.startswith(f"{folder}/"):
                return word + value.removeprefix(folder)
    return value
