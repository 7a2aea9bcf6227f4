"""Processes that torchrun starts: their group, their GPUs, their end."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm

# How long a process of a training waits for the others. Rank 0 alone computes text embeddings and
# metrics, which takes minutes for LVIS, and in the teacher's pass one rank may be slower by more. A
# process that dies is seen at once, by torchrun and by detectron2: the limit is for one that hangs.
LONGEST_WAIT = timedelta(hours=6)


def join_process_group() -> None:
    """Join torchrun's processes, if there are several, to share work on one store."""
    if int(os.getenv("WORLD_SIZE", "1")) > 1:
        # Days, as ranks wait for the slowest one at the end: torchrun would stop it otherwise.
        dist.init_process_group("gloo", timeout=timedelta(days=7))


def on_main_process(do: Callable[[], None]) -> None:
    """Run something on the main process, while the others wait. If it raises an OSError or a
    ValueError, all raise it."""
    error = None
    if comm.is_main_process():
        try:
            do()
        except (OSError, ValueError) as raised:
            error = raised
    if (error := all_gather(error)[0]) is not None:
        raise error


def all_gather(value: Any) -> list[Any]:
    """The values of all processes. Under NCCL the group of detectron2's function waits half an hour
    for the last one, whatever is set: so all wait for one another first."""
    comm.synchronize()
    return comm.all_gather(value)


def device_of_rank(device: str) -> torch.device:
    """The device of this process: of torchrun's each has its own GPU, if "cuda" is asked for."""
    chosen = torch.device(device)
    if dist.is_initialized() and chosen.type == "cuda" and chosen.index is None:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return chosen


def leave_process_group() -> None:
    """Leave torch's process group, if there is one, and end its threads.

    detectron2 caches the group that gathers objects. Destroying it alone leaves Gloo's threads
    running, and now and then the process aborts at its end ("terminate called without an active
    exception").
    """
    if dist.is_initialized():
        comm._get_global_gloo_group.cache_clear()
        dist.destroy_process_group()
