"""The image-embedding store: the teacher's vectors of every picture of a dataset, on disk.

A store is a folder with three files::

    manifest.json    what was embedded, by which teacher, and how
    embeddings.npy   (images, variants * windows, D) float16, read and written as a memory map;
                     variants: the picture and, if the manifest says so, its mirror image
    done.npy         (images,) uint8, one where the row of embeddings.npy is valid
"""

import errno
import hashlib
import json
import os
import shlex
import shutil
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np

FORMAT_VERSION = 1
_MANIFEST, _EMBEDDINGS, _DONE = "manifest.json", "embeddings.npy", "done.npy"


class EmbeddingStoreError(ValueError):
    """A store is missing, incomplete, damaged, or not the one that is needed."""


@dataclass(frozen=True)
class StoreManifest:
    """What a store holds.

    Attributes:
        dataset: name of the dataset.
        image_ids: one for every row, in the order of the rows; unique ints or strings.
        teacher, teacher_sha256: name of the image encoder and digest of its weights.
        preprocessing: what happens between a file and its vectors, in words.
        windows: name of the window set.
        boxes: its V boxes, relative XYXY.
        mirror: whether the windows of the mirrored picture follow those of the picture.
        dim: D, the width of an embedding.
    """

    dataset: str
    image_ids: tuple[int | str, ...]
    teacher: str
    teacher_sha256: str
    preprocessing: str
    windows: str
    boxes: tuple[tuple[float, float, float, float], ...]
    mirror: bool
    dim: int
    dtype: str = "float16"
    version: int = FORMAT_VERSION

    def __post_init__(self):
        if self.version != FORMAT_VERSION or self.dtype != "float16":
            raise EmbeddingStoreError(
                f"format version {self.version} with {self.dtype} embeddings, "
                f"where version {FORMAT_VERSION} with float16 can be read"
            )
        if not self.image_ids or not self.boxes:
            raise EmbeddingStoreError("no images or no windows")
        odd = next((i for i in self.image_ids if type(i) not in (int, str)), None)
        if odd is not None:
            raise EmbeddingStoreError(f"image id {odd!r} is neither an int nor a string")
        if len(set(self.image_ids)) < len(self.image_ids):
            raise EmbeddingStoreError("some image ids occur twice")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(images, variants * V, D)."""
        return len(self.image_ids), (1 + self.mirror) * len(self.boxes), self.dim

    @property
    def image_ids_sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.image_ids).encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "image_ids_sha256": self.image_ids_sha256})

    @classmethod
    def from_json(cls, text: str) -> "StoreManifest":
        """Raises EmbeddingStoreError for anything that ``to_json`` did not write."""
        try:
            entries = json.loads(text)
            digest = entries.pop("image_ids_sha256")
            entries["image_ids"] = tuple(entries["image_ids"])
            entries["boxes"] = tuple(tuple(map(float, box)) for box in entries["boxes"])
            manifest = cls(**entries)
        except EmbeddingStoreError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EmbeddingStoreError(f"{type(error).__name__}: {error}") from error
        if digest != manifest.image_ids_sha256:
            raise EmbeddingStoreError("the image ids do not fit their digest")
        return manifest

    def differences(self, other: "StoreManifest") -> list[str]:
        """Names of the fields in which two manifests differ, with both values if short."""

        def describe(name: str) -> str:
            if name in ("image_ids", "boxes"):
                return f"{name} ({len(getattr(self, name))} and {len(getattr(other, name))})"
            return f"{name} ({getattr(self, name)!r} and {getattr(other, name)!r})"

        names = [field.name for field in fields(self)]
        return [describe(n) for n in names if getattr(self, n) != getattr(other, n)]


class EmbeddingStore:
    """A store on disk; see the module's docstring for its files.

    Use :meth:`open` to read a complete store and :meth:`create` to fill one. Several processes of
    one machine may fill a store together, each its own rows. Pickling takes the path alone along:
    the copy maps the same files again.

    Args:
        path: the folder.
        writable: whether rows can be written.

    Raises:
        EmbeddingStoreError: the folder is missing, or its files do not fit each other.
    """

    def __init__(self, path: str | os.PathLike, *, writable: bool = False):
        self.path, self.writable = Path(path), writable
        self.manifest = self._read_manifest()
        self._row_of = {image_id: row for row, image_id in enumerate(self.manifest.image_ids)}
        self._embeddings = self._map(_EMBEDDINGS, self.manifest.shape, np.float16)
        self._done = self._map(_DONE, self.manifest.shape[:1], np.uint8)

    @classmethod
    def create(cls, path: str | os.PathLike, manifest: StoreManifest) -> "EmbeddingStore":
        """Start a store, or resume one of the same manifest, for writing.

        A new store appears at once with all its files, so processes may race to create it.

        Raises:
            EmbeddingStoreError: there is a store with another manifest, or something else.
            OSError: the disk has no room for the store.
        """
        path = Path(path)
        if not (path / _MANIFEST).is_file():
            _allocate(path, manifest)
        store = cls(path, writable=True)
        if differences := manifest.differences(store.manifest):
            raise EmbeddingStoreError(
                f"The image-embedding store {path} was made for something else: wanted and found "
                f"differ in {', '.join(differences)}. Delete that folder or choose another one."
            )
        return store

    @classmethod
    def open(cls, path: str | os.PathLike) -> "EmbeddingStore":
        """Open a complete store for reading.

        Raises:
            EmbeddingStoreError: it is missing, damaged or incomplete; the message names the folder
                and the command that makes or completes it.
        """
        store = cls(path)
        if len(pending := store.pending()):
            total = len(store.manifest.image_ids)
            raise store._error(
                f"is incomplete: {total - len(pending)} of {total} rows are done, the first "
                f"missing one is image id {store.manifest.image_ids[pending[0]]!r}"
            )
        return store

    def pending(self, rank: int = 0, world: int = 1) -> np.ndarray:
        """Rows not yet done among ``rank::world``: (n,) int64, ascending."""
        rows = np.arange(rank, len(self._done), world)
        return rows[self._done[rows] != 1]

    def write(self, rows: Sequence[int], embeddings: np.ndarray) -> None:
        """Write rows and mark them done, in this order on the disk too.

        Args:
            rows: (n,) indices into ``manifest.image_ids``.
            embeddings: (n, variants * V, D) finite floats.

        Raises:
            ValueError: wrong shape, not finite in float16, or a store opened for reading.
        """
        rows = np.asarray(rows, dtype=np.int64)
        with np.errstate(over="ignore"):
            embeddings = np.asarray(embeddings).astype(np.float16)
        expected = (len(rows), *self.manifest.shape[1:])
        if embeddings.shape != expected:
            raise ValueError(f"Expected embeddings of shape {expected}, got {embeddings.shape}.")
        if not np.isfinite(embeddings).all():
            raise ValueError("Some embeddings are not finite in float16.")
        self._embeddings[rows] = embeddings
        self._embeddings.flush()
        self._done[rows] = 1
        self._done.flush()

    def lookup(self, image_id: int | str, mirrored: bool = False) -> np.ndarray:
        """The windows' embeddings of a picture or of its mirror image: (V, D) float32.

        Raises:
            EmbeddingStoreError: the store does not hold them, or they are not finite.
        """
        row, num_windows = self._row_of.get(image_id), len(self.manifest.boxes)
        if row is None:
            raise self._error(f"holds no image id {image_id!r}")
        if mirrored and not self.manifest.mirror:
            raise self._error("holds no mirrored images; delete the folder", mirror=True)
        if self._done[row] != 1:
            raise self._error(f"has no embeddings of image id {image_id!r} yet")
        first = num_windows if mirrored else 0
        embeddings = self._embeddings[row, first : first + num_windows].astype(np.float32)
        if not np.isfinite(embeddings).all():
            raise self._error(
                f"is damaged: embeddings of image id {image_id!r} are not finite; delete the folder"
            )
        return np.asarray(embeddings)

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
            EmbeddingStoreError: names all that does not fit.
        """
        wanted = {"teacher_sha256": teacher_sha256, "dim": dim, "windows": windows}
        problems = [
            f"its {name} is {getattr(self.manifest, name)!r}, not {value!r}"
            for name, value in wanted.items()
            if value is not None and value != getattr(self.manifest, name)
        ]
        if mirror and not self.manifest.mirror:
            problems.append("it holds no mirrored images")
        if missing := [i for i in image_ids if i not in self._row_of]:
            problems.append(f"it lacks {len(missing)} images, the first is id {missing[0]!r}")
        if problems:
            raise self._error(
                f"does not fit: {'; '.join(problems)}; delete the folder or choose another one",
                mirror=mirror,
                windows=windows,
            )

    def __reduce__(self):
        return partial(type(self), writable=self.writable), (self.path,)

    def _read_manifest(self) -> StoreManifest:
        try:
            return StoreManifest.from_json((self.path / _MANIFEST).read_text())
        except OSError as error:
            raise EmbeddingStoreError(
                f"There is no image-embedding store at {self.path} ({error}). "
                f"Make it with\n  {precompute_command(self.path)}"
            ) from error
        except EmbeddingStoreError as error:
            raise EmbeddingStoreError(
                f"{self.path / _MANIFEST} is no manifest of an image-embedding store: {error}. "
                f"Delete the folder and run\n  {precompute_command(self.path)}"
            ) from error

    def _map(self, name: str, shape: tuple[int, ...], dtype: type) -> np.memmap:
        try:
            # Read-only first: numpy fills a truncated file up with zeros when it may write.
            array = np.lib.format.open_memmap(self.path / name, mode="r")
        except (OSError, ValueError) as error:
            raise self._error(f"is damaged: {name}: {error}; delete the folder") from error
        if array.shape != shape or array.dtype != dtype:
            raise self._error(
                f"is damaged: {name} is {array.dtype} {array.shape}, its manifest asks for "
                f"{np.dtype(dtype)} {shape}; delete the folder"
            )
        if not self.writable:
            return array
        return np.lib.format.open_memmap(self.path / name, mode="r+")

    def _error(self, problem: str, **needed) -> EmbeddingStoreError:
        return EmbeddingStoreError(
            f"The image-embedding store {self.path} {problem}. Run\n"
            f"  {precompute_command(self.path, self.manifest, **needed)}\n"
            f"with the weights of {self.manifest.teacher} (sha256 "
            f"{self.manifest.teacher_sha256}) as CLIP."
        )


def precompute_command(
    path: str | os.PathLike,
    manifest: StoreManifest | None = None,
    *,
    windows: str | None = None,
    mirror: bool = False,
) -> str:
    """The command that makes a store or resumes it; ``windows`` and ``mirror`` override what the
    manifest says."""
    command = ["python", "scripts/precompute_image_embeddings.py"]
    command += ["--dataset", manifest.dataset if manifest else "DATASET", "--clip", "CLIP"]
    command += ["--output", os.fspath(path)]
    if windows or manifest:
        command += ["--windows", windows or manifest.windows]
    if manifest and not (mirror or manifest.mirror):
        command += ["--no-mirror"]
    return shlex.join(command)


def _allocate(path: Path, manifest: StoreManifest) -> None:
    """Put an empty store at ``path``, unless another process is faster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir()
    try:
        for name, shape, dtype in (
            (_EMBEDDINGS, manifest.shape, np.float16),
            (_DONE, manifest.shape[:1], np.uint8),
        ):
            np.lib.format.open_memmap(temporary / name, mode="w+", dtype=dtype, shape=shape)
            _reserve(temporary / name)
        (temporary / _MANIFEST).write_text(manifest.to_json())
        os.rename(temporary, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _reserve(file: Path) -> None:
    # A memory map dies of a bus error on a full disk; reserving its blocks is a plain OSError.
    if hasattr(os, "posix_fallocate"):
        with open(file, "r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
