"""The region-embedding store: the teacher's vectors of every picture's proposals, on disk.

An :class:`~gridclip.data.array_store.ArrayStore` whose rows are the regions of all images, image
after image; the counts of the manifest say where an image's begin::

    embeddings.npy   (regions, D) float16
    boxes.npy        (regions, 4) float32, XYXY in pixels of the original picture: what was embedded
"""

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gridclip.data.array_store import StoreError
from gridclip.data.embedding_store import TeacherManifest, TeacherStore
from gridclip.data.proposal_store import ProposalStore


@dataclass(frozen=True, kw_only=True)
class RegionManifest(TeacherManifest):
    """What a region-embedding store holds.

    Attributes:
        proposals_sha256: digest of the proposals that were embedded, of :class:`ProposalStore`.
        counts: how many each image has.
    """

    proposals_sha256: str
    counts: tuple[int, ...]

    def __post_init__(self):
        super().__post_init__()
        if len(self.counts) != len(self.image_ids):
            raise StoreError(f"{len(self.counts)} counts for {len(self.image_ids)} images")
        if any(type(count) is not int or count < 0 for count in self.counts):
            raise StoreError("some counts are no natural numbers")

    @property
    def arrays(self):
        regions = sum(self.counts)
        return {
            "embeddings": ((regions, self.dim), np.float16),
            "boxes": ((regions, 4), np.float32),
        } | super().arrays

    @classmethod
    def _decode(cls, entries):
        return super()._decode(entries) | {"counts": tuple(entries["counts"])}


class RegionStore(TeacherStore):
    """Boxes of every image's regions and their embeddings, in the order of the proposals."""

    kind = "region-embedding store"
    manifest_type = RegionManifest
    manifest: RegionManifest

    def __init__(self, path: str | os.PathLike, *, writable: bool = False):
        super().__init__(path, writable=writable)
        self._offsets = np.cumsum((0, *self.manifest.counts))
        self._embeddings, self._boxes = self._map("embeddings"), self._map("boxes")

    @classmethod
    def command(cls, path, manifest=None) -> str:
        command = ["python", "scripts/precompute_region_embeddings.py"]
        command += ["--dataset", manifest.dataset if manifest else "DATASET"]
        command += ["--proposals", "PROPOSALS", "--clip", "CLIP", "--output", os.fspath(path)]
        return shlex.join(command)

    def write(self, row: int, boxes: np.ndarray, embeddings: np.ndarray) -> None:
        """Write the regions of an image and mark it done, in this order on the disk too.

        Args:
            row: index into ``manifest.image_ids``.
            boxes: (k, 4) finite floats, k as the manifest counts them.
            embeddings: (k, D) finite floats.

        Raises:
            ValueError: wrong shape, not finite, or a store opened for reading.
        """
        regions, count = self._regions(row), self.manifest.counts[row]
        boxes = np.asarray(boxes, dtype=np.float32)
        if boxes.shape != (count, 4) or not np.isfinite(boxes).all():
            raise ValueError(f"Expected {count} finite boxes, got {boxes.shape}.")
        embeddings = self._to_float16(embeddings, (count, self.manifest.dim))
        self._embeddings[regions], self._boxes[regions] = embeddings, boxes
        self._embeddings.flush()
        self._boxes.flush()
        self._mark_done(row)

    def lookup(self, image_id: int | str) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (k, 4) float32, XYXY in pixels of the original picture, and their embeddings
        (k, D) float32, of unit norm up to float16's rounding.

        Raises:
            StoreError: the store does not hold them, or they are not finite.
        """
        regions = self._regions(self._row(image_id))
        boxes = np.array(self._boxes[regions])
        if not np.isfinite(boxes).all():
            raise self._error(
                f"is damaged: boxes of image id {image_id!r} are not finite; delete the folder"
            )
        return boxes, self._finite(self._embeddings[regions], image_id)

    def check(
        self,
        *,
        image_ids: Iterable[int | str] = (),
        teacher_sha256: str | None = None,
        dim: int | None = None,
        proposals: ProposalStore | None = None,
    ) -> None:
        """Check that the store serves a purpose; what is not given is not checked.

        Args:
            image_ids: all have to be in the store; it may hold more.
            teacher_sha256: digest of the teacher's weights.
            dim: D.
            proposals: the regions have to be these. All of their boxes are read for it.

        Raises:
            StoreError: names all that does not fit.
        """
        problems = self._problems(teacher_sha256=teacher_sha256, dim=dim)
        problems += self._missing(image_ids)
        if (
            proposals is not None
            and (digest := proposals.digest()) != self.manifest.proposals_sha256
        ):
            problems.append(
                f"it holds regions of the proposals with digest {self.manifest.proposals_sha256}, "
                f"those of {proposals.path} have {digest}"
            )
        if problems:
            raise self._error(
                f"does not fit: {'; '.join(problems)}; delete the folder or choose another one"
            )

    @classmethod
    def open(cls, path: str | os.PathLike, proposals: ProposalStore | None = None) -> "RegionStore":
        """Open a complete store for reading; see :meth:`ArrayStore.open`.

        Args:
            path: the folder.
            proposals: those whose embeddings are wanted, if there is doubt; see :meth:`check`.
        """
        store = super().open(path)
        store.check(proposals=proposals)
        return store

    def _regions(self, row: int) -> slice:
        return slice(int(self._offsets[row]), int(self._offsets[row + 1]))
