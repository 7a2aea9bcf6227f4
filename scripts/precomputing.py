"""What the precompute_*.py commands share: the data set, torchrun's processes, the end."""

import difflib
import os
import sys
from collections.abc import Callable
from datetime import timedelta

import detectron2.data.datasets  # noqa: F401  registers detectron2's own datasets
import torch
import torch.distributed as dist
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

import gridclip.data  # noqa: F401  registers the project's datasets
from gridclip.data.array_store import ArrayStore
from gridclip.data.teacher import PrecomputeReport
from gridclip.distributed import leave_process_group


def load_dataset(name: str) -> list[dict]:
    if name not in DatasetCatalog.list():
        close = difflib.get_close_matches(name, DatasetCatalog.list())
        sys.exit(f"error: no dataset {name!r}; close names: {', '.join(close) or 'none'}")
    try:
        return DatasetCatalog.get(name)
    except FileNotFoundError as error:
        root = os.getenv("DETECTRON2_DATASETS", "datasets")
        sys.exit(f"error: {error}. DETECTRON2_DATASETS, the root of the datasets, is {root!r}.")


def join_process_group() -> None:
    """Join torchrun's processes, if there are several."""
    if int(os.getenv("WORLD_SIZE", "1")) > 1:
        # Days, as ranks wait for the slowest one at the end: torchrun would stop it otherwise.
        dist.init_process_group("gloo", timeout=timedelta(days=7))


def device_of_rank(device: str) -> torch.device:
    """Each of torchrun's processes its own GPU, if GPUs are asked for by "cuda"."""
    device = torch.device(device)
    if dist.is_initialized() and device.type == "cuda" and device.index is None:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def print_failures(reports: list[PrecomputeReport]) -> None:
    failures = [failure for report in reports for failure in report.failures]
    if failures:
        print(f"{len(failures)} images failed; mend them and run the same again:", file=sys.stderr)
    for failure in failures:
        print(f"  {failure.image_id} {failure.file_name}: {failure.reason}", file=sys.stderr)


def finish(
    store: ArrayStore,
    report: PrecomputeReport,
    print_summary: Callable[[ArrayStore, list[PrecomputeReport]], None],
) -> int:
    """Say what all processes did and leave their group.

    Returns:
        The exit code: 0 if the store is complete.
    """
    reports = comm.all_gather(report)
    if comm.is_main_process():
        print_summary(store, reports)
        print_failures(reports)
    leave_process_group()
    return 1 if len(store.pending()) else 0
