"""Print what GridCLIP needs and what of it is here, with the fix for everything that is not.

Exits with 1 if something required is missing; data sets and CLIP weights only warn. Uses the
standard library alone, so that it also runs where the installation is broken.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType

OK, WARNING, MISSING = "ok", "warning", "MISSING"

INSTALL = "make env (make -B env if that finds nothing to do)"
REINSTALL = "make -B env (builds .venv anew)"
OPENCV_DISTRIBUTIONS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
DATASET_PATHS = (
    "coco/train2017",
    "coco/val2017",
    "lvis/lvis_v1_train.json",
    "lvis/lvis_v1_val.json",
)
CLIP_WEIGHTS = Path("~/.cache/clip/RN50.pt")


@dataclass(frozen=True)
class Row:
    """One line of the table; `fix` says what to do where `status` is not OK."""

    name: str
    status: str
    detail: str
    fix: str = ""


def try_import(name: str) -> tuple[ModuleType | None, str]:
    """The imported module and "", or None and the reason why it cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name), ""
    except Exception as error:  # a broken binary raises OSError, RuntimeError, AttributeError, ...
        return None, f"{type(error).__name__}: {error}".splitlines()[0]


def installed(names: tuple[str, ...]) -> dict[str, str]:
    """Version by name of those distributions among `names` that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def python_row(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Row:
    detail = ".".join(map(str, version))
    if version < (3, 10):
        return Row(
            "Python", MISSING, f"{detail}, 3.10 or newer is needed", "make env PYTHON=python3.11"
        )
    return Row("Python", OK, f"{detail} at {sys.executable}")


def module_row(name: str) -> Row:
    module, error = try_import(name)
    if module is None:
        return Row(name, MISSING, error, INSTALL)
    return Row(name, OK, installed((name,)).get(name, "version unknown"))


def torch_row() -> Row:
    torch, error = try_import("torch")
    if torch is None:
        return Row("torch", MISSING, error, INSTALL)
    return Row("torch", OK, f"{torch.__version__}, built for CUDA {torch.version.cuda}")


def gpu_row() -> Row:
    torch, _ = try_import("torch")
    if torch is None or not torch.cuda.is_available():
        return Row("GPU", OK, "none: everything runs on the CPU")
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return Row("GPU", OK, ", ".join(f"{d.name} {d.total_memory / 2**30:.0f} GiB" for d in devices))


def cores_row() -> Row:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return Row("CPU cores", OK, str(cores))


def detectron2_row() -> Row:
    detectron2, error = try_import("detectron2")
    if detectron2 is None:
        return Row("detectron2", MISSING, error, INSTALL)
    builds = installed(("detectron2", "sal-detectron2"))
    if len(builds) > 1:
        detail = "detectron2 and sal-detectron2 are both installed, one over the other"
        return Row("detectron2", MISSING, detail, REINSTALL)
    build = "index build" if "sal-detectron2" in builds else "source build"
    compiled, _ = try_import("detectron2._C")
    extension = (
        "compiled _C loaded"
        if compiled
        else "compiled _C not loaded: no rotated boxes, no deformable convolution and pycocotools "
        "as COCO evaluator, none of which GridCLIP minds"
    )
    return Row("detectron2", OK, f"{detectron2.__version__}, {build}, {extension}")


def clip_row() -> Row:
    clip, error = try_import("clip")
    if clip is None:
        return Row("clip", MISSING, error, INSTALL)
    model, _ = try_import("clip.model")
    if not (hasattr(model, "CLIP") and hasattr(clip, "tokenize")):
        detail = f"{clip.__file__} is another package of that name, not OpenAI's"
        return Row("clip", MISSING, detail, REINSTALL)
    versions = installed(("clip-anytorch", "clip"))
    return Row("clip", OK, "OpenAI's, " + ", ".join(f"{k} {v}" for k, v in versions.items()))


def opencv_row() -> Row:
    builds = installed(OPENCV_DISTRIBUTIONS)
    names = ", ".join(f"{name} {version}" for name, version in builds.items())
    if len(builds) > 1:
        return Row("OpenCV", MISSING, f"more than one, over one another: {names}", REINSTALL)
    cv2, error = try_import("cv2")
    if cv2 is None:
        return Row("OpenCV", MISSING, error, INSTALL)
    return Row("OpenCV", OK, names or cv2.__version__)


def requirement_problems(requirements: list[str]) -> list[str]:
    """Those of `requirements` (PEP 508) that are absent or installed in another version."""
    from packaging.requirements import Requirement

    problems = []
    for requirement in map(Requirement, requirements):
        version = installed((requirement.name,)).get(requirement.name)
        if version is None:
            problems.append(f"{requirement} is not installed")
        elif not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{requirement} is wanted, {version} installed")
    return problems


def gridclip_row() -> Row:
    gridclip, error = try_import("gridclip")
    versions = installed(("gridclip",))
    if gridclip is None or not versions:
        return Row("gridclip", MISSING, error or "not installed", INSTALL)
    packaging, error = try_import("packaging")
    problems = requirement_problems(metadata.requires("gridclip") or []) if packaging else [error]
    if problems:
        return Row("gridclip", MISSING, "; ".join(problems), INSTALL)
    return Row("gridclip", OK, f"{versions['gridclip']}, its requirements are installed")


def dataset_rows() -> list[Row]:
    """Where DETECTRON2_DATASETS points, and which of LVIS's files are there."""
    named = os.environ.get("DETECTRON2_DATASETS")
    root = Path(named or "datasets").expanduser()
    origin = "" if named else " (the default: the variable is not set)"
    rows = [Row("DETECTRON2_DATASETS", OK, f"{root}{origin}")]
    for relative in DATASET_PATHS:
        path = root / relative
        filled = any(path.iterdir()) if path.is_dir() else path.is_file()
        if filled:
            rows.append(Row(relative, OK, "present"))
        else:
            fix = "datasets/README.md, or set DETECTRON2_DATASETS"
            rows.append(Row(relative, WARNING, "not there", fix))
    return rows


def clip_weights_row() -> Row:
    path = CLIP_WEIGHTS.expanduser()
    if not path.is_file():
        fix = "fetched at the first use of clip://RN50; offline, copy the file there"
        return Row("CLIP RN50", WARNING, f"{path} is not there", fix)
    return Row("CLIP RN50", OK, f"{path}, {path.stat().st_size / 1e6:.0f} MB")


def collect_rows() -> list[Row]:
    return [
        python_row(),
        torch_row(),
        module_row("torchvision"),
        module_row("numpy"),
        detectron2_row(),
        clip_row(),
        module_row("lvis"),
        opencv_row(),
        module_row("safetensors"),
        gridclip_row(),
        cores_row(),
        gpu_row(),
        *dataset_rows(),
        clip_weights_row(),
    ]


def main() -> int:
    rows = collect_rows()
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.name:{width}}  {row.status:7}  {row.detail}")
        if row.status != OK:
            print(f"{'':{width}}  {'':7}  fix: {row.fix}")
    missing = [row.name for row in rows if row.status == MISSING]
    if missing:
        print(f"\nMissing: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
