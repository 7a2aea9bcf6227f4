"""What batches need of shared memory, which containers have little of."""

from collections.abc import Mapping
from typing import Any

from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import DataLoader

from gridclip.machine import SHARED_MEMORY, free_shared_memory


def check_shared_memory(*loaders: DataLoader) -> None:
    """Raise ValueError if the batches that workers hold ready may not fit into shared memory, where
    a container has 64 MB by default: a worker dies of a bus error there, or is waited for without
    end. ``loaders`` are those in use at one time; the first batch of each is loaded."""
    needed = sum(map(bytes_in_flight, loaders)) * comm.get_local_size()
    free = free_shared_memory() if needed else None
    if free is not None and needed > free:
        size = -(-needed // 2**30)
        raise ValueError(
            f"The batches that the workers hold ready take up to {needed / 1e6:.0f} MB of shared "
            f"memory, and {SHARED_MEMORY} has {free / 1e6:.0f} MB: start the container with "
            f"--shm-size={size}g or --ipc=host, or lower dataloader.train.num_workers and "
            "dataloader.test.num_workers (0 needs none)."
        )


def bytes_in_flight(loader: DataLoader) -> int:
    """The most that the workers of a loader hold ready for this process, plus the batch that it
    works on, if all pictures are as large as the largest of the first batch."""
    if loader.num_workers == 0 or loader.batch_sampler is None:
        return 0
    first = next(iter(loader.batch_sampler), [])
    largest = max((_bytes_of_tensors(loader.dataset[index]) for index in first), default=0)
    ahead = loader.num_workers * (loader.prefetch_factor or 0)
    return (ahead + 1) * len(first) * largest


def _bytes_of_tensors(value: Any) -> int:
    """What of a mapped record goes through shared memory, without its few boxes."""
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_bytes_of_tensors, value.values())) if isinstance(value, Mapping) else 0
