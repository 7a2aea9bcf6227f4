"""The image-embedding store: the teacher's vectors of every picture of a dataset, on disk.

An :class:`~gridclip.data.array_store.ArrayStore` with one array of its own::

    embeddings.npy   (images, variants * windows, D) float16;
                     variants: the picture and, if the manifest says so, its mirror image
"""

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gridclip.data.array_store import ArrayStore, Manifest, StoreError


@dataclass(frozen=True, kw_only=True)
class TeacherManifest(Manifest):
    """What a store of a teacher's embeddings holds.

    Attributes:
        teacher, teacher_sha256: name of the image encoder and digest of its weights.
        preprocessing: what happens between a file and its vectors, in words.
        dim: D, the width of an embedding.
    """

    teacher: str
    teacher_sha256: str
    preprocessing: str
    dim: int
    dtype: str = "float16"

    def __post_init__(self):
        super().__post_init__()
        if self.dtype != "float16":
            raise StoreError(f"{self.dtype} embeddings: float16 can be read")


@dataclass(frozen=True, kw_only=True)
class StoreManifest(TeacherManifest):
    """What an image-embedding store holds.

    Attributes:
        windows: name of the window set.
        boxes: its V boxes, relative XYXY.
        mirror: whether the windows of the mirrored picture follow those of the picture.
    """

    windows: str
    boxes: tuple[tuple[float, float, float, float], ...]
    mirror: bool

    def __post_init__(self):
        super().__post_init__()
        if not self.boxes:
            raise StoreError("no windows")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(images, variants * V, D)."""
        return len(self.image_ids), (1 + self.mirror) * len(self.boxes), self.dim

    @property
    def arrays(self):
        return {"embeddings": (self.shape, np.float16)} | super().arrays

    @classmethod
    def _decode(cls, entries):
        boxes = tuple(tuple(map(float, box)) for box in entries["boxes"])
        return super()._decode(entries) | {"boxes": boxes}


class TeacherStore(ArrayStore):
    """A store of a teacher's embeddings."""

    contents = "embeddings"

    def _problems(self, **wanted) -> list[str]:
        """Manifest fields that are not as wanted, in words; None: any value will do."""
        return [
            f"its {name} is {getattr(self.manifest, name)!r}, not {value!r}"
            for name, value in wanted.items()
            if value is not None and value != getattr(self.manifest, name)
        ]

    def _to_float16(self, embeddings: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        with np.errstate(over="ignore"):
            embeddings = np.asarray(embeddings).astype(np.float16)
        if embeddings.shape != shape:
            raise ValueError(f"Expected embeddings of shape {shape}, got {embeddings.shape}.")
        if not np.isfinite(embeddings).all():
            raise ValueError("Some embeddings are not finite in float16.")
        return embeddings

    def _finite(self, embeddings: np.ndarray, image_id: int | str) -> np.ndarray:
        """A float32 copy of stored embeddings; an error if they are damaged."""
        embeddings = np.array(embeddings, dtype=np.float32)
        if not np.isfinite(embeddings).all():
            raise self._error(
                f"is damaged: embeddings of image id {image_id!r} are not finite; delete the folder"
            )
        return embeddings

    def _command_note(self) -> str:
        manifest = self.manifest
        return (
            f"\nwith the weights of {manifest.teacher} (sha256 {manifest.teacher_sha256}) as CLIP."
        )


class EmbeddingStore(TeacherStore):
    """The store of pictures' embeddings; see the module's docstring."""

    kind = "image-embedding store"
    manifest_type = StoreManifest
    manifest: StoreManifest

    def __init__(self, path: str | os.PathLike, *, writable: bool = False):
        super().__init__(path, writable=writable)
        self._embeddings = self._map("embeddings")

    def write(self, rows: Sequence[int], embeddings: np.ndarray) -> None:
        """Write rows and mark them done, in this order on the disk too.

        Args:
            rows: (n,) indices into ``manifest.image_ids``.
            embeddings: (n, variants * V, D) finite floats.

        Raises:
            ValueError: wrong shape, not finite in float16, or a store opened for reading.
        """
        rows = np.asarray(rows, dtype=np.int64)
        embeddings = self._to_float16(embeddings, (len(rows), *self.manifest.shape[1:]))
        self._embeddings[rows] = embeddings
        self._embeddings.flush()
        self._mark_done(rows)

    def lookup(self, image_id: int | str, mirrored: bool = False) -> np.ndarray:
        """The windows' embeddings of a picture or of its mirror image: (V, D) float32.

        Raises:
            StoreError: the store does not hold them, or they are not finite.
        """
        row, num_windows = self._row(image_id), len(self.manifest.boxes)
        if mirrored and not self.manifest.mirror:
            raise self._error("holds no mirrored images; delete the folder", mirror=True)
        first = num_windows if mirrored else 0
        return self._finite(self._embeddings[row, first : first + num_windows], image_id)

    def check(
        self,
        *,
        image_ids: Iterable[int | str] = (),
        teacher_sha256: str | None = None,
        dim: int | None = None,
        windows: str | None = None,
        mirror: bool = False,
    ) -> None:
        """Check that the store serves a purpose; what is not given is not checked.

        Args:
            image_ids: all have to be in the store; it may hold more.
            teacher_sha256: digest of the teacher's weights.
            dim: D.
            windows: name of the window set.
            mirror: whether mirrored images are needed.

        Raises:
            StoreError: names all that does not fit.
        """
        problems = self._problems(teacher_sha256=teacher_sha256, dim=dim, windows=windows)
        if mirror and not self.manifest.mirror:
            problems.append("it holds no mirrored images")
        problems += self._missing(image_ids)
        if problems:
            raise self._error(
                f"does not fit: {'; '.join(problems)}; delete the folder or choose another one",
                mirror=mirror,
                windows=windows,
            )

    @classmethod
    def command(cls, path, manifest=None, *, windows: str | None = None, mirror: bool = False):
        command = ["python", "scripts/precompute_image_embeddings.py"]
        command += ["--dataset", manifest.dataset if manifest else "DATASET", "--clip", "CLIP"]
        command += ["--output", os.fspath(path)]
        if windows or manifest:
            command += ["--windows", windows or manifest.windows]
        if manifest and not (mirror or manifest.mirror):
            command += ["--no-mirror"]
        return shlex.join(command)
