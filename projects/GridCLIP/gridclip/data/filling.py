"""What the passes that fill a store share: reading pictures, naming those that fail, progress."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from detectron2.data.detection_utils import check_image_size, read_image
from detectron2.utils import comm
from tqdm import tqdm

from gridclip.data.array_store import ArrayStore


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
    """Counts the pictures that one process stores; the main process shows a progress bar."""

    def __init__(self, records: Sequence[dict], total: int, description: str):
        """
        Args:
            records: in detectron2's format, of all rows of the store.
            total: pictures that this process has to do.
            description: of the progress bar.
        """
        self._records, self._done, self._start = records, 0, perf_counter()
        self._failures: list[ImageFailure] = []
        hidden = not comm.is_main_process()
        self._bar = tqdm(total=total, unit="image", desc=description, disable=hidden)

    def __enter__(self) -> "Filling":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def done(self, count: int = 1) -> None:
        self._done += count
        self._bar.update(count)

    def fail(self, row: int, reason: str) -> None:
        record = self._records[row]
        self._failures.append(ImageFailure(record["image_id"], record["file_name"], reason))
        self._bar.set_postfix(failed=len(self._failures), refresh=False)
        self._bar.update()

    def report(self) -> FillReport:
        return FillReport(self._done, tuple(self._failures), perf_counter() - self._start)


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


def without_annotations(record: dict) -> dict:
    """What reading a picture needs of its record: the rest need not go to worker processes."""
    return {k: record[k] for k in ("file_name", "width", "height") if k in record}


def read_picture(record: dict) -> np.ndarray | str:
    """A picture as detectron2's mapper reads it, (H, W, 3) uint8 RGB, or why it cannot be used.

    Args:
        record: with "file_name"; "width" and "height" are checked if they are there.
    """
    try:
        image = read_image(record["file_name"], "RGB")
        check_image_size(dict(record), image)
    except Exception as error:  # every image format has its own exceptions for a damaged file
        return f"{type(error).__name__}: {error}"
    return image
