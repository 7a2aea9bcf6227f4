"""Print what GridCLIP needs and what of it is here, with the fix for everything that is not.

Exits with 1 if something required is missing. Imports the standard library alone, so that it also
runs where the installation is broken.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType

OK, WARNING, MISSING = "ok", "warning", "MISSING"
INSTALL = "make env (if that finds nothing to do, make -B env, which builds .venv anew)"
GET_DATA = "datasets/README.md, or set DETECTRON2_DATASETS"
GET_WEIGHTS = "fetched at the first use of clip://RN50; offline, copy the file there"
DATASETS = ("coco/train2017", "coco/val2017", "lvis/lvis_v1_train.json", "lvis/lvis_v1_val.json")
MODULES = ("torch", "torchvision", "numpy", "lvis", "safetensors")
MACHINE = {"GPU": "gpus", "driver": "driver", "NCCL": "nccl", "/dev/shm": "shared_memory"}
# Distributions that bring the same module; two of them overwrite one another's files.
DISTRIBUTIONS = {
    "clip": ("clip-anytorch", "clip"),
    "cv2": tuple(f"opencv{a}-python{b}" for a in ("", "-contrib") for b in ("", "-headless")),
    "detectron2": ("sal-detectron2", "detectron2"),
}


class Fault(Exception):
    """Raised by a check with its row: the status, what is wrong, and how to fix it."""


def load(name: str, status: str = MISSING) -> ModuleType:
    """Import a module. Whatever its import raises becomes a Fault of that status."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken binary raises OSError, RuntimeError, AttributeError, ...
        raise Fault(status, f"{type(error).__name__}: {error}".splitlines()[0], INSTALL) from error


def version(distribution: str) -> str | None:
    return next((found.version for found in metadata.distributions(name=distribution)), None)


def check_python(running: tuple[int, ...] = tuple(sys.version_info[:3])) -> str:
    text = ".".join(map(str, running))
    if running < (3, 11):
        raise Fault(MISSING, f"{text}, 3.11 or newer is needed", "make env PYTHON=python3.11")
    return f"{text} at {sys.executable}"


def check_module(name: str) -> str:
    found = [f"{d} {version(d)}" for d in DISTRIBUTIONS.get(name, (name,)) if version(d)]
    if len(found) > 1:
        raise Fault(MISSING, f"more than one, over one another: {', '.join(found)}", INSTALL)
    module = load(name)
    return found[0] if found else getattr(module, "__version__", "version unknown")


def check_machine(name: str) -> str:
    """By a function of gridclip.machine. A CPU is enough, so nothing here is required."""
    detail, fix = getattr(load("gridclip.machine", WARNING), f"describe_{name}")()
    if fix:
        raise Fault(WARNING, detail, fix)
    return detail


def check_detectron2() -> str:
    text = check_module("detectron2")
    text += ", index build" if text.startswith("sal-") else ", source build"
    if run(partial(load, "detectron2._C"))[0] == OK:
        return f"{text}, compiled _C loaded"
    return f"{text}, compiled _C not loaded: no rotated boxes, unused by GridCLIP"


def check_clip() -> str:
    text, clip = check_module("clip"), load("clip")
    if not (hasattr(clip, "tokenize") and hasattr(getattr(clip, "model", None), "CLIP")):
        raise Fault(MISSING, f"{clip.__file__} is another package, not OpenAI's", INSTALL)
    return f"OpenAI's, {text}"


def check_gridclip() -> str:
    """The package, and that every requirement (PEP 508) in its metadata is met."""
    text, parse = check_module("gridclip"), load("packaging.requirements").Requirement
    if version("gridclip") is None:
        raise Fault(MISSING, "not installed", INSTALL)
    problems = []
    for requirement in map(parse, metadata.requires("gridclip") or []):
        found = version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            problems.append(f"{requirement} is wanted, {found or 'nothing'} installed")
    if problems:
        raise Fault(MISSING, "; ".join(problems), INSTALL)
    return f"{text}, its requirements are installed"


def check_path(path: Path, fix: str) -> str:
    """A file, or a folder that is not empty."""
    if not (any(path.iterdir()) if path.is_dir() else path.is_file()):
        raise Fault(WARNING, f"{path} is not there", fix)
    return f"{path}, {path.stat().st_size / 1e6:.0f} MB" if path.is_file() else str(path)


def checks() -> dict[str, Callable[[], str]]:
    """By name and in order; each returns what to print, or raises Fault."""
    data = Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()
    return {
        "Python": check_python,
        **{m: partial(check_module, m) for m in MODULES},
        "OpenCV": partial(check_module, "cv2"),
        "detectron2": check_detectron2,
        "clip": check_clip,
        "gridclip": check_gridclip,
        **{row: partial(check_machine, name) for row, name in MACHINE.items()},
        **{name: partial(check_path, data / name, GET_DATA) for name in DATASETS},
        "CLIP RN50": partial(check_path, Path("~/.cache/clip/RN50.pt").expanduser(), GET_WEIGHTS),
    }


def run(check: Callable[[], object]) -> tuple[str, ...]:
    """A row: the status, the detail, and the fix or ""."""
    try:
        return OK, str(check()), ""
    except Fault as fault:
        return fault.args


def main(argv: list[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    warnings.simplefilter("ignore")  # a warning of an import is not a fault
    rows = {name: run(check) for name, check in checks().items()}
    width = max(map(len, rows))
    for name, (status, detail, fix) in rows.items():
        fixed_by = f"\n{'':{width}}  {'':7}  fix: {fix}" if fix else ""
        print(f"{name:{width}}  {status:7}  {detail}{fixed_by}")
    if missing := [name for name, (status, *_) in rows.items() if status == MISSING]:
        sys.exit(f"\nMissing: {', '.join(missing)}")


if __name__ == "__main__":
    main()
