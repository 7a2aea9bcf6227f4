"""Data: the open-vocabulary splits, the loader, the mappers and the stores that they read."""

from .datasets import (
    LVIS_V1_RARE,
    first_images,
    novel_classes,
    register_base_split,
    remove_novel_categories,
)
from .loader import build_train_loader
from .mapper import GridCLIPDatasetMapper, ViLDDatasetMapper

__all__ = [
    "LVIS_V1_RARE",
    "GridCLIPDatasetMapper",
    "ViLDDatasetMapper",
    "build_train_loader",
    "first_images",
    "novel_classes",
    "register_base_split",
    "remove_novel_categories",
]
