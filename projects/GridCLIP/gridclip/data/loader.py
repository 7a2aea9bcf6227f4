"""A training loader whose batches depend on the seed and the iteration alone.

Those of detectron2's loader also depend on resumes, ranks and workers. Here every rank draws the
whole global batch and keeps its share, and a sample's place in the stream seeds its augmentation.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from .records import Records


class GlobalBatchSampler(Sampler):
    """Yields this rank's part of each global batch as a list of (index, position) pairs.

    ``position`` counts the samples drawn since the start of training. Set ``start_iter`` before
    iterating to skip the batches of a run that is resumed; no image is loaded for them.
    """

    def __init__(
        self, sampler: RepeatFactorTrainingSampler, groups: np.ndarray, total_batch_size: int
    ):
        """
        Args:
            sampler: with the same seed on all ranks.
            groups: (images,) integers; images of one batch are of one group.
            total_batch_size: images of a batch over all ranks.

        Raises:
            ValueError: the ranks can't share a batch equally.
        """
        share, rest = divmod(total_batch_size, comm.get_world_size())
        if rest:
            raise ValueError(
                f"A batch of {total_batch_size} can't be shared equally by "
                f"{comm.get_world_size()} ranks: set dataloader.train.total_batch_size."
            )
        self.sampler, self.groups, self.total_batch_size = sampler, groups, total_batch_size
        self.start_iter = 0
        self._own = slice(comm.get_rank() * share, (comm.get_rank() + 1) * share)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in itertools.islice(self._global_batches(), self.start_iter, None):
            yield batch[self._own]

    def _global_batches(self) -> Iterator[list[tuple[int, int]]]:
        pending: dict[int, list[tuple[int, int]]] = {}
        # The stream of indices before the sampler deals it out to ranks.
        for position, index in enumerate(self.sampler._infinite_indices()):
            group = self.groups[index]
            batch = pending.setdefault(group, [])
            batch.append((index, position))
            if len(batch) == self.total_batch_size:
                yield pending.pop(group)


class SeededMapDataset(Dataset):
    """Maps a record with numpy's random state seeded by its position in the stream."""

    def __init__(self, records: Sequence[dict], mapper: Callable[[dict], dict], seed: int):
        self.records, self.mapper, self.seed = records, mapper, seed

    def __getitem__(self, item: tuple[int, int]) -> dict:
        index, position = item
        state = np.random.get_state()
        np.random.seed([self.seed, position])
        try:
            return self.mapper(self.records[index])
        finally:
            np.random.set_state(state)

    def __len__(self) -> int:
        return len(self.records)


def _repeat_factors(dataset: Sequence[dict], repeat_threshold: float) -> torch.Tensor:
    # detectron2 logs a line for every category there.
    sampler_logger = logging.getLogger(RepeatFactorTrainingSampler.__module__)
    sampler_logger.disabled = True
    try:
        return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset, repeat_threshold
        )
    finally:
        sampler_logger.disabled = False


def build_train_loader(
    dataset: Sequence[dict],
    *,
    mapper: Callable[[dict], dict],
    total_batch_size: int,
    repeat_threshold: float = 0.0,
    num_workers: int = 4,
    seed: int = 0,
) -> DataLoader:
    """An endless loader of lists of mapped records, landscape and portrait images apart.

    Args:
        dataset: records with "width", "height" and "annotations".
        total_batch_size: images of a batch over all ranks.
        repeat_threshold: LVIS's repeat factor sampling: images with categories that occur in a
            smaller fraction of the images than this are seen more often; 0 for none. Computed
            from the annotations in ``dataset``.
        num_workers: processes a rank; what is loaded does not depend on it.
        seed: of order and augmentation.
    """
    outlines = dataset.outlines() if isinstance(dataset, Records) else dataset
    sampler = RepeatFactorTrainingSampler(_repeat_factors(outlines, repeat_threshold), seed=seed)
    groups = np.array([record["width"] > record["height"] for record in outlines])
    return DataLoader(
        SeededMapDataset(dataset, mapper, seed),
        batch_sampler=GlobalBatchSampler(sampler, groups, total_batch_size),
        num_workers=num_workers,
        collate_fn=trivial_batch_collator,
        generator=torch.Generator(),  # else a new iterator draws from the training's random stream
        pin_memory=torch.cuda.is_available(),
    )
