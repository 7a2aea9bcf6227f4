"""results.json: the metrics of one evaluation, and what one has to know to understand them."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, NoReturn

import torch
from detectron2.utils.registry import _convert_target_to_string
from omegaconf import OmegaConf

from gridclip.data.description import DatasetDescription
from gridclip.files import write_json

# The fields that every file has, also older ones, and their types.
_RECORD: dict[str, Any] = {
    "metrics": dict,
    "protocol": {
        "task": str,
        "evaluator": str,
        "ap": str,
        "dataset": str,
        "dataset_sha256": str,
        "images": int,
        "split": str,
        "novel_classes": int,
    },
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


def write_results(
    output_dir: str | os.PathLike,
    metrics: Mapping[str, Mapping[str, float]],
    *,
    protocol: Mapping[str, str],
    data: DatasetDescription,
    num_images: int,
    cfg: Any = None,
    seed: int | None = None,
    weights: str | None = None,
    iterations: int | None = None,
    precision: str | None = None,
    inference_dtype: str | None = None,
    device: str = "cpu",
    seconds: float | None = None,
) -> Path:
    """Write ``<output_dir>/results.json`` and return its path. For the main process alone.

    Args:
        metrics: what the evaluator returned, e.g. ``{"bbox": {"AP": 20.0, ...}}``; nan is
            written as null.
        protocol: "evaluator" and "ap", how the metrics were computed.
        data: the data set evaluated on.
        num_images: how many of its images were evaluated.
        cfg: the LazyConfig of the run, written as :func:`jsonable_config` says.
        seed, iterations, precision: of the training; the last is the type of its matrix products.
        device, inference_dtype, seconds: of the evaluation; the model of the device's processor is
            written, too.
        weights: the checkpoint that was evaluated, or that the training started from.

    Raises:
        ValueError: there are no metrics, or they are not of the form above.
    """
    on_gpu = torch.device(device).type == "cuda"
    novel = data.novel_classes or ()
    record = {
        "metrics": nan_to_none(metrics),
        "protocol": {
            "task": "bbox",
            **protocol,
            "dataset": data.name,
            "dataset_sha256": data.sha256,
            "images": num_images,
            "categories": len(data.names),
            "split": "open-vocabulary" if novel else "no category is named as novel",
            "novel_classes": len(novel),
            "notes": [f"{x.what}: {x.count}: {x.action}" for x in data.findings.items],
        },
        "data": data.arguments,
        "config": None if cfg is None else jsonable_config(cfg),
        "seed": seed,
        "commit": git_commit(),
        "versions": versions(),
        "device": processor_name(device) if on_gpu else device,
        "processor": processor_name(device),
        "weights": weights,
        "iterations": iterations,
        "precision": precision,
        "inference_dtype": inference_dtype,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
    }
    path = Path(output_dir) / "results.json"
    _check_record(record, path)
    write_json(path, record, indent=2)
    return path


def read_results(path: str | os.PathLike) -> dict:
    """Read a results.json. A metric that is null there becomes nan.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not strict JSON, or a field is absent or of another type.
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


def nan_to_none(value: Any) -> Any:
    """A copy of a tree of mappings with None for nan."""
    if isinstance(value, Mapping):
        return {key: nan_to_none(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def jsonable_config(cfg: Any) -> Any:
    """A LazyConfig as JSON: interpolations resolved, classes and functions by name, numbers that
    are not finite and other objects as strings."""
    if OmegaConf.is_config(cfg):
        cfg = OmegaConf.to_container(cfg, resolve=True)
    if isinstance(cfg, Mapping):
        return {str(key): jsonable_config(value) for key, value in cfg.items()}
    if isinstance(cfg, list | tuple):
        return [jsonable_config(value) for value in cfg]
    if callable(cfg) and hasattr(cfg, "__qualname__"):
        return _convert_target_to_string(cfg)
    if isinstance(cfg, float) and not math.isfinite(cfg):
        return str(cfg)
    return cfg if isinstance(cfg, int | float | str | None) else str(cfg)


def processor_name(device: str) -> str:
    """The model of the GPU or CPU, as its driver or the system calls it. Virtual machines call all
    CPUs of a maker alike ("AMD EPYC"), so family and model, by number, are added."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    facts = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    if (name := facts.get("model name")) is None:
        return platform.processor() or "unknown CPU"
    numbers = [f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    return f"{name} ({', '.join(numbers)})".replace("cpu family", "family") if numbers else name


def git_commit() -> str:
    """The commit of this very file, with "-dirty" if tracked files have changed since, or
    "unknown" outside of a checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        # An installed copy may lie in a virtual environment inside some other checkout.
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@cache
def versions() -> dict[str, str]:
    """Versions of Python and the packages that matter: those of the distribution that provides a
    package, with its name where it is another."""
    installed = packages_distributions()
    versions = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "detectron2", "lvis", "numpy", "clip"):
        names = sorted(set(installed.get(package, [])))
        versions[package] = ", ".join(
            version(name) if name == package else f"{name} {version(name)}" for name in names
        )
    return versions


def _check_record(record: Any, path: Path) -> None:
    _check_fields(record, _RECORD, f"{path}")
    if not record["metrics"]:
        raise ValueError(f"{path}: metrics are empty")
    for task, group in record["metrics"].items():
        fields = dict.fromkeys(group, int | float | None) if isinstance(group, dict) else {}
        _check_fields(group, fields, f"{path}: metrics.{task}")


def _check_fields(record: Any, fields: Mapping[str, Any], where: str) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"{where} is not a JSON object")
    for name, kind in fields.items():
        if name not in record:
            raise ValueError(f"{where} has no {name}")
        if isinstance(kind, dict):
            _check_fields(record[name], kind, f"{where}: {name}")
        elif not isinstance(record[name], kind):
            expected = getattr(kind, "__name__", kind)
            raise ValueError(f"{where}: {name} is {record[name]!r}, not {expected}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")
