"""The end of a process group."""

import torch.distributed as dist
from detectron2.utils import comm


def leave_process_group() -> None:
    """Leave torch's process group, if there is one, and end its threads.

    detectron2 keeps the group that gathers objects in a cache, so that destroying it alone leaves
    Gloo's threads running until the interpreter ends, which now and then aborts the process
    ("terminate called without an active exception").
    """
    if dist.is_initialized():
        comm._get_global_gloo_group.cache_clear()
        dist.destroy_process_group()
