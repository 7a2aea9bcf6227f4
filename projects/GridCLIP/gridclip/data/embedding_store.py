"""The embedding store: the teacher's vectors of every image's regions.

An :class:`~gridclip.data.store.ArrayStore` whose values are ``embeddings.npy``, (images, K,
variants, D) float16. If the manifest says "mirror", a region has two variants, the second that of
the mirror image. A window is a region with a fixed box, relative to the image's width and height;
ViLD's proposals are in pixels of the original image.
"""

import os
import shlex
from dataclasses import dataclass

import numpy as np

from gridclip.data.regions import PROPOSALS
from gridclip.data.store import ArrayStore, Manifest


@dataclass(frozen=True, kw_only=True)
class EmbeddingManifest(Manifest):
    """What a store holds.

    Attributes:
        teacher, teacher_sha256: name of the image encoder and digest of its weights.
        preprocessing: what happens between a file and its vectors, in words.
        regions: the window set, or "proposals".
        regions_sha256: digest of their boxes.
        max_regions: K.
        mirror: whether the mirrored images are there too.
        dim: D, the width of an embedding.
    """

    version = 2  # in 1, windows and proposals had stores of different kinds
    values = "embeddings"
    values_dtype = np.float16
    teacher: str
    teacher_sha256: str
    preprocessing: str
    regions: str
    regions_sha256: str
    max_regions: int
    mirror: bool
    dim: int

    @property
    def values_shape(self):
        return self.max_regions, 1 + self.mirror, self.dim


class EmbeddingStore(ArrayStore[EmbeddingManifest]):
    """Boxes and embeddings of every image's regions.

    Args:
        path, writable: as in :class:`ArrayStore`.
        regions: the window set, or "proposals", if only one will do.
        mirror: whether mirrored images are needed.

    Raises:
        StoreError: as in :class:`ArrayStore`, or the store holds something else.
    """

    kind = "embedding store"
    manifest_type = EmbeddingManifest

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        writable: bool = False,
        regions: str | None = None,
        mirror: bool = False,
    ):
        self._wanted, self._mirror_wanted = regions, mirror
        super().__init__(path, writable=writable)
        problems = []
        if regions not in (None, self.manifest.regions):
            problems.append(f"its regions are '{self.manifest.regions}', not '{regions}'")
        if mirror and not self.manifest.mirror:
            problems.append("it holds no mirrored images")
        if problems:
            raise self._error(
                f"does not fit: {'; '.join(problems)}; delete the folder or choose another one"
            )

    def lookup(self, image_id: int | str, mirrored: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The regions of an image or of its mirror image.

        Returns:
            boxes (k, 4) float32, as the module's docstring says, and embeddings (k, D) float32, of
            unit norm up to float16's rounding.

        Raises:
            StoreError: the store does not hold them, or they are damaged.
        """
        if mirrored and not self.manifest.mirror:
            self._mirror_wanted = True  # for the command that the error gives
            raise self._error("holds no mirrored images; delete the folder")
        boxes, embeddings = self._read(image_id, int(mirrored))
        return boxes, embeddings.astype(np.float32)

    def summary(self) -> str:
        vectors, dim = self.counts.sum() * (1 + self.manifest.mirror), self.manifest.dim
        average, size = vectors / len(self.counts), vectors * dim * 2 / 1e6
        return f"{vectors} vectors of width {dim}, {average:.1f} an image, {size:.1f} MB"

    def command(self, manifest: EmbeddingManifest | None) -> str:
        regions = self._wanted or (manifest.regions if manifest else None)
        dataset = manifest.dataset if manifest else "DATASET"
        where = ["--dataset", dataset]
        if dataset.endswith(".json"):
            where = ["--json", dataset, "--images", "IMAGES"]
        end = [*where, "--clip", "CLIP", "--output", str(self.path)]
        if regions == PROPOSALS:
            what, end = "regions", ["--proposals", "PROPOSALS", *end]
        else:
            what, end = "images", end + (["--windows", regions] if regions else [])
            if manifest and not (self._mirror_wanted or manifest.mirror):
                end += ["--no-mirror"]
        command = shlex.join(["python", "scripts/precompute.py", what, *end])
        if manifest is None:
            return command
        weights = f"{manifest.teacher} (sha256 {manifest.teacher_sha256})"
        return f"{command}\nwith the weights of {weights} as CLIP."
