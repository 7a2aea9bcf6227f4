"""Fills stores: reads pictures, names those that fail, shows progress.

What worker processes read comes through a pipe, as bytes: PyTorch would move tensors through
/dev/shm, where a container has 64 MB by default, and a process dies of a bus error beyond.
"""

import copy
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from detectron2.data import MapDataset
from detectron2.utils import comm
from torch.utils.data import DataLoader
from tqdm import tqdm

from gridclip.data.parts import Part, join
from gridclip.data.store import ArrayStore
from gridclip.distributed import all_gather, on_main_process


@dataclass(frozen=True)
class ImageFailure:
    """A picture that could not be used, and why."""

    image_id: int | str
    file_name: str
    reason: str


@dataclass(frozen=True)
class FillReport:
    """What one process did to a store.

    Attributes:
        done: pictures stored now.
        failures: pictures that could not be; they are tried again the next time.
        seconds: time from the first picture to the last.
    """

    done: int
    failures: tuple[ImageFailure, ...]
    seconds: float


class Filling:
    """Reads this process's share of the pictures that a store lacks; counts what is written.

    Several processes write a part each, which the main process joins in :meth:`finish`; what a run
    that was killed has left is joined first. The main process shows a progress bar.
    """

    def __init__(
        self,
        store: ArrayStore,
        records: Sequence[dict],
        prepare: Callable[[dict], Any],
        *,
        num_workers: int,
        description: str,
    ):
        """
        Args:
            store: created, for writing.
            records: in detectron2's format, of all rows of the store.
            prepare: reads the picture of a record without annotations, in ``num_workers`` worker
                processes. If it fails, the picture stays undone.
            description: of the progress bar.
        """
        on_main_process(partial(join, store))
        # Mapped anew: what was read before may be old on a network.
        self.store, self._records, self._start = copy.copy(store), records, perf_counter()
        self._part = Part(store) if comm.get_world_size() > 1 else None
        self._done, self._failures = 0, list[ImageFailure]()
        needed = ("file_name", "width", "height")  # the rest need not go to worker processes
        pending = [
            (row, {key: records[row][key] for key in needed if key in records[row]})
            for row in store.pending(comm.get_rank(), comm.get_world_size()).tolist()
        ]
        self.loader = DataLoader(
            MapDataset(pending, partial(_load, prepare)), batch_size=None, num_workers=num_workers
        )
        hidden = not comm.is_main_process()
        self._bar = tqdm(self.loader, description, unit="image", disable=hidden)

    def pictures(self) -> Iterator[tuple[int, Any]]:
        """The row of each picture that can be used, and what was prepared of it."""
        for row, prepared, failure in self._bar:
            if failure:
                self.fail(row, failure)
            else:
                yield row, pickle.loads(prepared)

    def write(
        self, rows: Sequence[int], boxes: Sequence[np.ndarray], values: Sequence[np.ndarray]
    ) -> None:
        """As :meth:`ArrayStore.write`."""
        (self._part or self.store).write(rows, boxes, values)
        self._done += len(rows)

    def fail(self, row: int, reason: str) -> None:
        record = self._records[row]
        self._failures.append(ImageFailure(record["image_id"], record["file_name"], reason))
        self._bar.set_postfix(failed=len(self._failures), refresh=False)

    def finish(self) -> FillReport:
        """Join what all processes have written; to be called by all.

        Raises:
            StoreError: a part is not as its process has left it.
        """
        report = FillReport(self._done, tuple(self._failures), perf_counter() - self._start)
        if self._part is not None:
            told = dict(ChainMap(*all_gather(self._part.close())))
            on_main_process(partial(join, self.store, told))
        return report


def _load(prepare: Callable[[dict], Any], pending: tuple[int, dict]) -> tuple[int, bytes, str]:
    """(row, what is prepared of the picture, pickled, reason of a failure or "")."""
    row, record = pending
    try:
        return row, pickle.dumps(prepare(record), pickle.HIGHEST_PROTOCOL), ""
    except Exception as error:  # every image format has its own exceptions for a damaged file
        return row, b"", f"{type(error).__name__}: {error}"


def print_summary(store: ArrayStore, reports: Sequence[FillReport]) -> None:
    """Print what all processes did; on the main process alone."""
    if not comm.is_main_process():
        return
    total, done = len(store.manifest.image_ids), sum(report.done for report in reports)
    seconds = max(report.seconds for report in reports)
    print(
        f"{store.path}: {total - len(store.pending())} of {total} images done\n"
        f"  this run: {done} images in {seconds:.1f} s, {done / seconds:.1f} images/s\n"
        f"  {store.summary()}"
    )
    failures = [failure for report in reports for failure in report.failures]
    if failures:
        print(f"{len(failures)} images failed; mend them and run the same again:", file=sys.stderr)
    for failure in failures:
        print(f"  {failure.image_id} {failure.file_name}: {failure.reason}", file=sys.stderr)
