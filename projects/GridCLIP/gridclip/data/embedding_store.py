"""The embedding store: the teacher's vectors of every picture's regions, on disk.

An :class:`~gridclip.data.array_store.ArrayStore` whose rows are the regions of all pictures,
picture after picture; the counts of the manifest say where a picture's begin. A window is a region
with a fixed box: GridCLIP's windows and ViLD's proposals are kept in the same way::

    embeddings.npy   (variants * regions, D) float16; if the manifest says "mirror", a picture has
                     two variants: its regions come first, those of its mirror image after them
    boxes.npy        (regions, 4) float32 XYXY: windows relative to the picture's width and height,
                     proposals in pixels of the original picture
"""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gridclip.data.array_store import ArrayStore, Manifest, StoreError
from gridclip.data.regions import PROPOSALS


@dataclass(frozen=True, kw_only=True)
class EmbeddingManifest(Manifest):
    """What a store holds.

    Attributes:
        teacher, teacher_sha256: name of the image encoder and digest of its weights.
        preprocessing: what happens between a file and its vectors, in words.
        regions: the window set, or "proposals".
        regions_sha256: digest of their boxes.
        counts: how many regions each picture has.
        mirror: whether the mirrored pictures are there too.
        dim: D, the width of an embedding.
    """

    version: ClassVar[int] = 2  # in 1, windows and proposals had stores of different kinds
    teacher: str
    teacher_sha256: str
    preprocessing: str
    regions: str
    regions_sha256: str
    counts: tuple[int, ...]
    mirror: bool
    dim: int
    dtype: str = "float16"

    def __post_init__(self):
        super().__post_init__()
        if self.dtype != "float16":
            raise StoreError(f"{self.dtype} embeddings: only float16 can be read")
        if len(self.counts) != len(self.image_ids):
            raise StoreError(f"{len(self.counts)} counts for {len(self.image_ids)} images")
        if any(type(count) is not int or count < 0 for count in self.counts):
            raise StoreError("some counts are not natural numbers")

    @property
    def variants(self) -> int:
        """1, or 2 with the mirrored pictures."""
        return 1 + self.mirror

    @property
    def arrays(self):
        regions = sum(self.counts)
        return super().arrays | {
            "embeddings": ((self.variants * regions, self.dim), np.float16),
            "boxes": ((regions, 4), np.float32),
        }

    @classmethod
    def _decode(cls, entries: dict) -> dict:
        return super()._decode(entries) | {"counts": tuple(entries["counts"])}


class EmbeddingStore(ArrayStore):
    """Boxes and embeddings of every picture's regions; see the module's docstring."""

    kind = "embedding store"
    contents = "embeddings"
    manifest_type = EmbeddingManifest
    manifest: EmbeddingManifest

    def __init__(self, path: str | os.PathLike, **options):
        super().__init__(path, **options)
        self._offsets = np.cumsum((0, *self.manifest.counts))
        self._embeddings, self._boxes = self._map("embeddings"), self._map("boxes")

    def write(
        self, rows: Sequence[int], boxes: Sequence[np.ndarray], embeddings: Sequence[np.ndarray]
    ) -> None:
        """Write pictures and mark them done, in this order on the disk too.

        Args:
            rows: n indices into ``manifest.image_ids``.
            boxes: of each, (k, 4) finite floats, k as the manifest counts its regions.
            embeddings: of each, (variants * k, D) finite floats.

        Raises:
            ValueError: wrong shape, not finite in float16, or a store opened for reading.
        """
        checked = [
            self._check_arrays(*picture) for picture in zip(rows, boxes, embeddings, strict=True)
        ]
        for row, (picture_boxes, picture_embeddings) in zip(rows, checked, strict=True):
            regions, vectors = self._slices(row)
            self._boxes[regions], self._embeddings[vectors] = picture_boxes, picture_embeddings
        self._embeddings.flush()
        self._boxes.flush()
        self._mark_done(np.asarray(rows, dtype=np.int64))

    def lookup(self, image_id: int | str, mirrored: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The regions of a picture or of its mirror image.

        Returns:
            boxes (k, 4) float32, as the module's docstring says, and embeddings (k, D) float32, of
            unit norm up to float16's rounding.

        Raises:
            StoreError: the store does not hold them, or they are not finite.
        """
        if mirrored and not self.manifest.mirror:
            raise self._error("holds no mirrored images; delete the folder", mirror=True)
        row = self._row(image_id)
        regions, vectors = self._slices(row)
        count = self.manifest.counts[row]
        first = vectors.start + mirrored * count
        boxes = np.array(self._boxes[regions])
        embeddings = np.array(self._embeddings[first : first + count], dtype=np.float32)
        for name, values in (("boxes", boxes), ("embeddings", embeddings)):
            if not np.isfinite(values).all():
                raise self._error(
                    f"is damaged: {name} of image id {image_id!r} are not finite; delete the folder"
                )
        return boxes, embeddings

    def summary(self) -> str:
        (vectors, dim), images = self._embeddings.shape, len(self.manifest.image_ids)
        return (
            f"{vectors} vectors of width {dim}, {vectors / images:.1f} an image, "
            f"{vectors * dim * 2 / 1e6:.1f} MB"
        )

    @classmethod
    def command(cls, path, manifest=None, *, regions: str | None = None, mirror: bool = False):
        regions = regions or (manifest.regions if manifest else None)
        dataset = manifest.dataset if manifest else "DATASET"
        end = ["--dataset", dataset, "--clip", "CLIP", "--output", os.fspath(path)]
        if regions == PROPOSALS:
            what, end = "regions", ["--proposals", "PROPOSALS", *end]
        else:
            what, end = "images", end + (["--windows", regions] if regions else [])
            if manifest and not (mirror or manifest.mirror):
                end += ["--no-mirror"]
        return shlex.join(["python", "scripts/precompute.py", what, *end])

    @classmethod
    def open(cls, path, *, regions: str | None = None, mirror: bool = False) -> "EmbeddingStore":
        """Open a complete store for reading; see :meth:`ArrayStore.open`.

        Args:
            path: the folder.
            regions: the window set, or "proposals", if only one will do.
            mirror: whether mirrored images are needed.

        Raises:
            StoreError: the store is missing, incomplete or damaged, or holds something else.
        """
        store = super().open(path, regions=regions, mirror=mirror)
        problems = []
        if regions not in (None, store.manifest.regions):
            problems.append(f"its regions are '{store.manifest.regions}', not '{regions}'")
        if mirror and not store.manifest.mirror:
            problems.append("it holds no mirrored images")
        if problems:
            raise store._error(
                f"does not fit: {'; '.join(problems)}; delete the folder or choose another one"
            )
        return store

    def _check_arrays(self, row: int, boxes, embeddings) -> tuple[np.ndarray, np.ndarray]:
        """A picture's arrays as they are stored; ValueError if something is wrong with them."""
        count = self.manifest.counts[row]
        boxes = np.asarray(boxes, dtype=np.float32)
        if boxes.shape != (count, 4) or not np.isfinite(boxes).all():
            raise ValueError(f"Expected {count} finite boxes, got {boxes.shape}.")
        with np.errstate(over="ignore"):
            embeddings = np.asarray(embeddings).astype(np.float16)
        expected = (self.manifest.variants * count, self.manifest.dim)
        if embeddings.shape != expected:
            raise ValueError(f"Expected embeddings of shape {expected}, got {embeddings.shape}.")
        if not np.isfinite(embeddings).all():
            raise ValueError("Some embeddings are not finite in float16.")
        return boxes, embeddings

    def _slices(self, row: int) -> tuple[slice, slice]:
        """Where a picture's regions lie, in ``boxes`` and, of all variants, in ``embeddings``."""
        start, stop = (int(offset) for offset in self._offsets[row : row + 2])
        variants = self.manifest.variants
        return slice(start, stop), slice(variants * start, variants * stop)

    def _command_note(self) -> str:
        manifest = self.manifest
        return (
            f"\nwith the weights of {manifest.teacher} (sha256 {manifest.teacher_sha256}) as CLIP."
        )
