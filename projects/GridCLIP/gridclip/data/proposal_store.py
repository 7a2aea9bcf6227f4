"""The proposal store: the best boxes that a trained region proposal network finds in every image.

A store is a folder as :mod:`gridclip.data.array_store` describes it, with

    boxes.npy     (images, K, 4) float32, K the most proposals of an image; then zeros
    scores.npy    (images, K) float32
    counts.npy    (images,) int64, how many proposals an image has
"""

import hashlib
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .array_store import ArrayStore, Manifest, StoreError


@dataclass(frozen=True, kw_only=True)
class ProposalManifest(Manifest):
    """What a store holds.

    Attributes:
        weights_sha256: digest of the detector's weights.
        max_proposals: K.
        inference: what else the boxes depend on, in words: the size of the input, suppression.
    """

    weights_sha256: str
    max_proposals: int
    inference: str = ""

    def __post_init__(self):
        super().__post_init__()
        if type(self.max_proposals) is not int or self.max_proposals < 1:
            raise StoreError(f"max_proposals is {self.max_proposals!r}, not a positive number")

    @property
    def arrays(self):
        rows, most = len(self.image_ids), self.max_proposals
        return super().arrays | {
            "boxes": ((rows, most, 4), np.float32),
            "scores": ((rows, most), np.float32),
            "counts": ((rows,), np.int64),
        }


class ProposalStore(ArrayStore):
    """Boxes and scores of every image, best first."""

    kind = "proposal store"
    contents = "proposals"
    manifest_type = ProposalManifest

    def __init__(self, path: str | os.PathLike, **options):
        super().__init__(path, **options)
        self._boxes, self._scores = self._map("boxes"), self._map("scores")
        self._counts = self._map("counts")

    def summary(self) -> str:
        done = max(1, len(self.manifest.image_ids) - len(self.pending()))
        return f"{self.counts.sum()} proposals, {self.counts.sum() / done:.1f} an image"

    @classmethod
    def command(cls, path, manifest: ProposalManifest | None = None) -> str:
        command = ["python", "scripts/precompute.py", "proposals"]
        command += ["--config-file", "CONFIG.py", "--weights", "FILE.pth"]
        command += ["--dataset", manifest.dataset if manifest else "DATASET"]
        command += ["--output", os.fspath(path)]
        return shlex.join(command)

    def write(self, row: int, boxes: np.ndarray, scores: np.ndarray) -> None:
        """Write the proposals of an image and mark it done, in this order on the disk too.

        Args:
            row: index into ``manifest.image_ids``.
            boxes: (k, 4) floats, XYXY in pixels of the original image, none of them empty.
            scores: (k,) floats, from the best on.

        Raises:
            ValueError: something is not as above, more than ``max_proposals``, or the store was
                opened for reading.
        """
        boxes, scores = np.asarray(boxes, np.float32), np.asarray(scores, np.float32)
        count, most = len(scores), self.manifest.max_proposals
        if boxes.shape != (count, 4) or scores.ndim != 1 or count > most:
            raise ValueError(
                f"Expected boxes (k, 4) and scores (k,) with k <= {most}, "
                f"got {boxes.shape} and {scores.shape}."
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError("Some boxes or scores are not finite.")
        if not (boxes[:, 2:] > boxes[:, :2]).all():
            raise ValueError("Some boxes are empty.")
        if (np.diff(scores) > 0).any():
            raise ValueError("The proposals are not in the order of their scores.")
        self._boxes[row, :count], self._scores[row, :count] = boxes, scores
        self._counts[row] = count
        for array in (self._boxes, self._scores, self._counts):
            array.flush()
        self._mark_done(row)

    def lookup(self, image_id: int | str) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (k, 4) float32, XYXY in pixels of the original image, and scores (k,) float32.

        Raises:
            StoreError: the store does not hold them, or they are damaged.
        """
        row = self._row(image_id)
        count = int(self._counts[row])
        if not 0 <= count <= self.manifest.max_proposals:
            raise self._error(
                f"is damaged: it counts {count} proposals of image id {image_id!r}; "
                "delete the folder"
            )
        boxes = np.array(self._boxes[row, :count])
        scores = np.array(self._scores[row, :count])
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise self._error(
                f"is damaged: proposals of image id {image_id!r} are not finite; delete the folder"
            )
        return boxes, scores

    def check(self, image_ids: Iterable[int | str]) -> None:
        """Raise a StoreError if the store lacks some of these images; it may hold more."""
        if problems := self._missing(image_ids):
            raise self._error(f"does not fit: {problems[0]}; delete the folder or choose another")

    @property
    def counts(self) -> np.ndarray:
        """(images,) int64 numbers of proposals, in the order of ``manifest.image_ids``."""
        return np.array(self._counts)

    def digest(self) -> str:
        """sha256 over image ids, counts and boxes: what was computed of these boxes can prove it.

        It reads all boxes, about half a gigabyte for LVIS's training images.
        """
        digest = hashlib.sha256(self.manifest.image_ids_sha256.encode())
        digest.update(self.counts.astype("<i8").tobytes())
        for image_id in self.manifest.image_ids:
            digest.update(self.lookup(image_id)[0].astype("<f4").tobytes())
        return digest.hexdigest()
