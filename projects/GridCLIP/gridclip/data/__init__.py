"""Data: the description of a data set, the loader, the mappers and the stores that they read."""

from .datasets import open_dataset
from .description import DatasetDescription, federated_weights, novel_classes
from .findings import DatasetError
from .loader import build_train_loader
from .mapper import GridCLIPDatasetMapper, PictureMapper, ViLDDatasetMapper
from .records import all_records, training_records

__all__ = [
    "DatasetDescription",
    "DatasetError",
    "GridCLIPDatasetMapper",
    "PictureMapper",
    "ViLDDatasetMapper",
    "all_records",
    "build_train_loader",
    "federated_weights",
    "novel_classes",
    "open_dataset",
    "training_records",
]
