"""results.json: the metrics of one evaluation and all it takes to know what was measured."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

import torch
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import _convert_target_to_string
from omegaconf import OmegaConf

from gridclip.clip_checkpoint import sha256_of_file
from gridclip.files import write_json

_FIELDS = {
    "metrics": dict,
    "protocol": dict,
    "config": dict | None,
    "seed": int | None,
    "commit": str,
    "versions": dict,
    "device": str,
    "weights": str | None,
    "iterations": int | None,
    "date": str,
    "seconds": int | float | None,
}
_PROTOCOL_FIELDS = {
    "task": str,
    "evaluator": str,
    "ap": str,
    "dataset": str,
    "dataset_sha256": str,
    "images": int,
    "split": str,
    "novel_classes": int,
}


def write_results(
    output_dir: str | os.PathLike,
    metrics: Mapping[str, Mapping[str, float]],
    *,
    dataset_name: str,
    num_images: int,
    cfg=None,
    novel_classes: Sequence[int] = (),
    max_dets_per_image: int = 300,
    seed: int | None = None,
    weights: str | None = None,
    iterations: int | None = None,
    device: str | torch.device = "cpu",
    seconds: float | None = None,
) -> Path:
    """Write ``<output_dir>/results.json`` and return its path. Call it on the main process alone.

    Args:
        metrics: what the evaluator returned, e.g. ``{"bbox": {"AP": 20.0, ...}}``; nan is
            written as null.
        dataset_name: the dataset evaluated on; its metadata has "json_file".
        num_images: how many of its images were evaluated.
        cfg: the LazyConfig of the run. Interpolations are resolved, classes and functions
            written by name; strings, and so paths, are written as they are.
        novel_classes: the classes withheld from training; none for a fully supervised detector.
        max_dets_per_image: the evaluator's.
        seed: of the training.
        weights: the checkpoint evaluated, as the user named it.
        iterations: trained.
        device: that the evaluation ran on.
        seconds: that the evaluation took.

    Raises:
        ValueError: if there are no metrics, or not of the form above.
    """
    record = {
        "metrics": nan_to_none(metrics),
        "protocol": {
            "task": "bbox",
            "evaluator": f"lvis-api {version('lvis')}'s metrics, computed by FastLVISEval",
            "ap": f"standard, at most {max_dets_per_image} detections an image (not Fixed AP)",
            "dataset": dataset_name,
            "dataset_sha256": _sha256_of_annotations(dataset_name),
            "images": num_images,
            "split": "open-vocabulary" if len(novel_classes) else "fully supervised",
            "novel_classes": len(novel_classes),
        },
        "config": None if cfg is None else jsonable_config(cfg),
        "seed": seed,
        "commit": git_commit(),
        "versions": versions(),
        "device": _device_name(device),
        "weights": None if weights is None else str(weights),
        "iterations": iterations,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
    }
    path = Path(output_dir) / "results.json"
    _check_record(record, path)
    write_json(path, record, indent=2)
    return path


def read_results(path: str | os.PathLike) -> dict:
    """Read a results.json. Metrics that it gives as null are nan in what is returned.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not strict JSON, or a field is absent or of another type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; an evaluation writes it.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except ValueError as error:
        raise ValueError(f"{path} is not strict JSON: {error}") from error
    _check_record(record, path)
    for group in record["metrics"].values():
        group.update({name: math.nan for name, value in group.items() if value is None})
    return record


def nan_to_none(value):
    """A copy of a tree of mappings with None for nan."""
    if isinstance(value, Mapping):
        return {key: nan_to_none(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _sha256_of_annotations(dataset_name: str) -> str:
    return sha256_of_file(PathManager.get_local_path(MetadataCatalog.get(dataset_name).json_file))


def jsonable_config(cfg):
    """A LazyConfig as JSON: interpolations resolved, classes and functions by name."""
    if OmegaConf.is_config(cfg):
        cfg = OmegaConf.to_container(cfg, resolve=True)
    if isinstance(cfg, Mapping):
        return {str(key): jsonable_config(value) for key, value in cfg.items()}
    if isinstance(cfg, list | tuple):
        return [jsonable_config(value) for value in cfg]
    if isinstance(cfg, float) and not math.isfinite(cfg):
        return str(cfg)
    if cfg is None or isinstance(cfg, bool | int | float | str):
        return cfg
    if callable(cfg) and hasattr(cfg, "__qualname__"):
        return _convert_target_to_string(cfg)
    return str(cfg)


def git_commit() -> str:
    """The commit of this very file, "-dirty" if tracked files were changed since."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # An installed copy may lie in a virtual environment inside some other checkout.
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", here.name], check=True, capture_output=True
        )
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


@cache
def versions() -> dict[str, str]:
    """The distribution that provides each package, by name where it is not the package's own."""
    installed = packages_distributions()
    versions = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "detectron2", "lvis", "numpy", "clip"):
        names = sorted(set(installed.get(package, [])))
        versions[package] = ", ".join(
            version(name) if name == package else f"{name} {version(name)}" for name in names
        )
    return versions


def _device_name(device: str | torch.device) -> str:
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _check_record(record, path: Path) -> None:
    _check_fields(record, _FIELDS, f"{path}")
    _check_fields(record["protocol"], _PROTOCOL_FIELDS, f"{path}: protocol")
    if not record["metrics"]:
        raise ValueError(f"{path}: metrics are empty")
    for task, group in record["metrics"].items():
        if not isinstance(group, dict):
            raise ValueError(f"{path}: metrics.{task} is not a table of metric names and values")
        _check_fields(group, dict.fromkeys(group, int | float | None), f"{path}: metrics.{task}")


def _check_fields(record, fields: dict, where: str) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"{where} is not a JSON object")
    for name, kind in fields.items():
        if name not in record:
            raise ValueError(f"{where} has no {name}")
        if not isinstance(record[name], kind):
            expected = getattr(kind, "__name__", kind)
            raise ValueError(f"{where}: {name} is {record[name]!r}, not {expected}")


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not allowed")
