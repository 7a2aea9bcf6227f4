"""Data: the open-vocabulary splits, the loader, the mapper and the image-embedding store."""

from .datasets import LVIS_V1_RARE, first_images, register_base_split, remove_novel_categories
from .loader import build_train_loader
from .mapper import GridCLIPDatasetMapper

__all__ = [
    "LVIS_V1_RARE",
    "GridCLIPDatasetMapper",
    "build_train_loader",
    "first_images",
    "register_base_split",
    "remove_novel_categories",
]
