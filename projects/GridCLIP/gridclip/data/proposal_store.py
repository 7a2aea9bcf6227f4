"""The proposal store: the best boxes that a trained region proposal network finds in every image.

An :class:`~gridclip.data.store.ArrayStore` whose values are ``scores.npy``, (images, K)
float32. Boxes are in pixels of the original image.
"""

import hashlib
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gridclip.data.store import ArrayStore, Manifest


@dataclass(frozen=True, kw_only=True)
class ProposalManifest(Manifest):
    """What a store holds.

    Attributes:
        weights_sha256: digest of the detector's weights.
        max_proposals: K.
        inference: what else the boxes depend on, in words: the size of the input, suppression.
    """

    values = "scores"
    values_dtype = np.float32
    weights_sha256: str
    max_proposals: int
    inference: str = ""

    @property
    def values_shape(self):
        return (self.max_proposals,)


class ProposalStore(ArrayStore[ProposalManifest]):
    """Boxes and scores of every image, best first."""

    kind = "proposal store"
    manifest_type = ProposalManifest

    def summary(self) -> str:
        done = max(1, len(self.manifest.image_ids) - len(self.pending()))
        return f"{self.counts.sum()} proposals, {self.counts.sum() / done:.1f} an image"

    def command(self, manifest: ProposalManifest | None) -> str:
        command = ["python", "scripts/precompute.py", "proposals"]
        command += ["--config-file", "CONFIG.py", "--weights", "FILE.pth"]
        return shlex.join([*command, "--output", str(self.path)])

    def lookup(self, image_id: int | str) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (k, 4) float32, XYXY in pixels of the original image, and scores (k,) float32.

        Raises:
            StoreError: the store does not hold them, or they are damaged.
        """
        return self._read(image_id)

    def check(self, image_ids: Iterable[int | str]) -> None:
        """Raise a StoreError if the store lacks some of these images; it may hold more."""
        if missing := [image_id for image_id in image_ids if image_id not in self._row_of]:
            raise self._error(
                f"does not fit: it lacks {len(missing)} images, the first is id {missing[0]!r}; "
                "delete the folder or choose another one"
            )

    def digest(self) -> str:
        """sha256 over image ids, counts and boxes: what was computed of these boxes can prove it.

        It reads all boxes, about half a gigabyte for LVIS's training images.
        """
        digest = hashlib.sha256(self.manifest.image_ids_sha256.encode())
        digest.update(self.counts.astype("<i8").tobytes())
        for image_id in self.manifest.image_ids:
            digest.update(self.lookup(image_id)[0].astype("<f4").tobytes())
        return digest.hexdigest()

    def as_stored(self, boxes: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        boxes, scores = super().as_stored(boxes, values)
        if not (boxes[:, 2:] > boxes[:, :2]).all():
            raise ValueError("Some boxes are empty.")
        if (np.diff(scores) > 0).any():
            raise ValueError("The proposals are not in the order of their scores.")
        return boxes, scores
