"""Stores on disk: the boxes of every image's regions, and values beside them.

A store is a folder with a ``manifest.json``, which says what is stored and how it was made, and
arrays as npy files, read and written as memory maps, with a row for every image::

    boxes.npy     (images, K, 4) float32 XYXY, K the most regions of an image
    VALUES.npy    (images, K, ...), under the name that the manifest's class gives them
    counts.npy    (images,) int64, how many of the K an image has
    done.npy      (images,) uint8, one where an image's entries are valid

While several processes fill it, there is a folder ``parts/`` too: see :mod:`gridclip.data.parts`.
"""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from types import EllipsisType
from typing import ClassVar, Generic, Self, TypeVar, cast

import numpy as np
from detectron2.utils import comm

_MANIFEST = "manifest.json"
PARTS = "parts"


class StoreError(ValueError):
    """A store is missing, incomplete, damaged, or not the one that is needed."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store holds; a subclass adds fields, and says what the values are.

    Attributes:
        version: of the files' format.
        values: name of the array of values.
        values_dtype: its dtype.
        dataset: name of the dataset.
        image_ids: one for every row, in the order of the rows; unique ints or strings.
        pictures_sha256: of :func:`pictures_digest`; empty: not known.
    """

    version: ClassVar[int] = 1
    values: ClassVar[str]
    values_dtype: ClassVar[type]
    dataset: str
    image_ids: tuple[int | str, ...]
    pictures_sha256: str = ""

    def __post_init__(self):
        if not self.image_ids:
            raise StoreError("no images")
        odd = next((i for i in self.image_ids if type(i) not in (int, str)), None)
        if odd is not None:
            raise StoreError(f"image id {odd!r} is neither an int nor a string")
        if len(set(self.image_ids)) < len(self.image_ids):
            raise StoreError("some image ids occur twice")
        if type(self.values_shape[0]) is not int or self.values_shape[0] < 1:
            raise StoreError(f"{self.values_shape[0]!r} is not a possible number of regions")

    @property
    def values_shape(self) -> tuple[int, ...]:
        """(K, ...), the shape of an image's values."""
        raise NotImplementedError

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Shape and dtype of each array by its name, which is the file's stem."""
        images = len(self.image_ids)
        return {
            "boxes": ((images, self.values_shape[0], 4), np.float32),
            self.values: ((images, *self.values_shape), self.values_dtype),
            "counts": ((images,), np.int64),
            "done": ((images,), np.uint8),
        }

    @property
    def image_ids_sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.image_ids).encode()).hexdigest()

    def to_json(self) -> str:
        facts = {"version": self.version, "image_ids_sha256": self.image_ids_sha256}
        return json.dumps({**asdict(self), **facts})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError, TypeError, KeyError or AttributeError if it is not a manifest."""
        entries = json.loads(text)
        digest, version = entries.pop("image_ids_sha256"), entries.pop("version")
        if version != cls.version:
            raise StoreError(f"format version {version}, where {cls.version} is needed")
        manifest = cls(**entries | {"image_ids": tuple(entries["image_ids"])})
        if digest != manifest.image_ids_sha256:
            raise StoreError("the image ids do not fit their digest")
        return manifest

    def differences(self, other: "Manifest") -> list[str]:
        """Names of the fields in which two manifests differ, with both values if short."""
        found = []
        for name in (field.name for field in fields(self)):
            mine, others = getattr(self, name), getattr(other, name)
            unknown = name == "pictures_sha256" and "" in (mine, others)  # an older store
            if mine != others and not unknown:
                show = len if isinstance(mine, tuple) else repr
                found.append(f"{name} ({show(mine)} and {show(others)})")
        return found


def pictures_digest(records: Iterable[dict]) -> str:
    """Digest of the pictures' ids and names of files: another data set may have the same ids."""
    digest = hashlib.sha256()
    for record in records:
        name = os.path.basename(record["file_name"])
        digest.update(json.dumps([record["image_id"], name]).encode())
    return digest.hexdigest()


M = TypeVar("M", bound=Manifest)


class ArrayStore(Generic[M]):
    """A store on disk; see the module's docstring for its files.

    :meth:`open` is for reading a complete store, :meth:`create` for filling one. Only one process
    may :meth:`write`; several fill a store together by :mod:`gridclip.data.parts`. Pickling takes
    the path alone along: the copy maps the same files again.

    A subclass names itself in ``kind`` and its manifest in ``manifest_type``, and gives
    :meth:`command`, :meth:`summary` and a public way to :meth:`_read`.

    Args:
        path: the folder.
        writable: whether rows can be written.

    Attributes:
        counts: (images,) int64 numbers of regions, in the order of ``manifest.image_ids``.

    Raises:
        StoreError: the folder is missing, or its files do not fit each other.
    """

    kind: ClassVar[str]
    manifest_type: ClassVar[type[Manifest]]

    def __init__(self, path: str | os.PathLike, *, writable: bool = False):
        self.path, self.writable = Path(path), writable
        self.manifest = self._read_manifest()
        self._row_of = {image_id: row for row, image_id in enumerate(self.manifest.image_ids)}
        self._done, self.counts = self._map("done"), self._map("counts")
        self._boxes, self._values = self._map("boxes"), self._map(self.manifest.values)

    def command(self, manifest: M | None) -> str:
        """The command that makes the store or resumes it; None: there is no store yet."""
        raise NotImplementedError

    def summary(self) -> str:
        """What it holds, in a line."""
        raise NotImplementedError

    @classmethod
    def create(cls, path: str | os.PathLike, manifest: M) -> Self:
        """Start a store, or resume one of the same manifest, for writing.

        A new store appears at once with all its files, so processes may race to create it. Those of
        a process group take turns, rank 0 first, so that the disk space is reserved once.

        Raises:
            StoreError: there is a store with another manifest, or something else.
            OSError: the disk has no room for the store.
        """
        if not comm.is_main_process():
            comm.synchronize()
        try:
            if not (Path(path) / _MANIFEST).is_file():
                _allocate(Path(path), manifest)
            store = cls(path, writable=True)
        finally:
            # Even if rank 0 fails: the others then fail with the same message instead of waiting.
            if comm.is_main_process():
                comm.synchronize()
        if differences := manifest.differences(store.manifest):
            raise StoreError(
                f"The {cls.kind} {path} was made for something else: wanted and found "
                f"differ in {', '.join(differences)}. Delete that folder or choose another one."
            )
        return store

    @classmethod
    def open(cls, path: str | os.PathLike, **options) -> Self:
        """Open a complete store for reading; ``options`` are the constructor's.

        Raises:
            StoreError: it is missing, damaged or incomplete; the message names the folder and the
                command that makes or completes it.
        """
        store = cls(path, **options)
        if len(pending := store.pending()):
            total, parts = len(store.manifest.image_ids), len(list(store.path.glob(f"{PARTS}/*")))
            raise store._error(
                f"is incomplete: {total - len(pending)} of {total} rows are done, the first "
                f"missing one is image id {store.manifest.image_ids[pending[0]]!r}"
                + f", and {parts} parts are to be joined"
                * (parts > 0)
            )
        return store

    def pending(self, rank: int = 0, world: int = 1) -> np.ndarray:
        """Rows not yet done among ``rank::world``: (n,) int64, ascending."""
        rows = np.arange(rank, len(self._done), world)
        return rows[self._done[rows] != 1]

    def is_done(self, rows: np.ndarray) -> np.ndarray:
        """Which of these rows, (n,) int64, are done: (n,) bool."""
        return self._done[rows] == 1

    def write(
        self, rows: Sequence[int], boxes: Sequence[np.ndarray], values: Sequence[np.ndarray]
    ) -> None:
        """Write images and mark them done, in this order on the disk too.

        Args:
            rows: n indices into ``manifest.image_ids``.
            boxes: of each, (k, 4) finite floats, k at most K.
            values: of each, (k, ...) finite floats; see ``manifest.values_shape``.

        Raises:
            ValueError: something is not as described, or the store was opened for reading.
        """
        checked = [self.as_stored(*image) for image in zip(boxes, values, strict=True)]
        for row, (image_boxes, image_values) in zip(rows, checked, strict=True):
            count = self.counts[row] = len(image_boxes)
            self._boxes[row, :count], self._values[row, :count] = image_boxes, image_values
        # A done byte must not reach the disk before what it vouches for.
        for array in (self._boxes, self._values, self.counts):
            array.flush()
        self._done[np.asarray(rows, dtype=np.int64)] = 1
        self._done.flush()

    def __reduce__(self):
        return partial(type(self), writable=self.writable), (self.path,)

    def as_stored(self, boxes: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An image's arrays as they are stored; ValueError if something is wrong with them."""
        boxes = np.asarray(boxes, dtype=np.float32)
        with np.errstate(over="ignore"):
            values = np.asarray(values).astype(self._values.dtype)
        name, (most, *rest) = self.manifest.values, self.manifest.values_shape
        count = len(boxes)
        if boxes.shape != (count, 4) or values.shape != (count, *rest) or count > most:
            raise ValueError(
                f"Expected boxes {('k', 4)} and {name} {('k', *rest)} with k <= {most}, "
                f"got {boxes.shape} and {values.shape}."
            )
        if not (np.isfinite(boxes).all() and np.isfinite(values).all()):
            raise ValueError(f"Some boxes or {name} are not finite in {values.dtype}.")
        return boxes, values

    def _read(
        self, image_id: int | str, index: int | EllipsisType = ...
    ) -> tuple[np.ndarray, np.ndarray]:
        """Copies of an image's boxes (k, 4) and values, those of ``[:, index]``, checked."""
        row = self._row_of.get(image_id)
        if row is None:
            raise self._error(f"holds no image id {image_id!r}")
        if self._done[row] != 1:
            raise self._error(f"has no {self.manifest.values} of image id {image_id!r} yet")
        count = int(self.counts[row])
        if not 0 <= count <= self.manifest.values_shape[0]:
            raise self._damage(f"it counts {count} regions of image id {image_id!r}")
        boxes = np.array(self._boxes[row, :count])
        values = np.array(self._values[row, :count, index])
        for name, array in (("boxes", boxes), (self.manifest.values, values)):
            if not np.isfinite(array).all():
                raise self._damage(f"{name} of image id {image_id!r} are not finite")
        return boxes, values

    def _read_manifest(self) -> M:
        file = self.path / _MANIFEST
        try:
            return cast(M, self.manifest_type.from_json(file.read_text()))
        except OSError as error:
            problem = f"There is no {self.kind} at {self.path} ({error}). Make it with"
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            problem = f"{file} is not a manifest: {reason}. Delete the {self.kind}'s folder and run"
        raise StoreError(f"{problem}\n  {self.command(None)}")

    def _map(self, name: str) -> np.memmap:
        (shape, dtype), file = self.manifest.arrays[name], f"{name}.npy"
        try:
            # Read-only first: numpy fills a truncated file up with zeros when it may write.
            array = np.lib.format.open_memmap(self.path / file, mode="r")
        except (OSError, ValueError) as error:
            raise self._damage(f"{file}: {error}") from error
        if array.shape != shape or array.dtype != dtype:
            raise self._damage(
                f"{file} is {array.dtype} {array.shape}, its manifest asks for "
                f"{np.dtype(dtype)} {shape}"
            )
        if self.writable:
            return np.lib.format.open_memmap(self.path / file, mode="r+")
        return array

    def _damage(self, problem: str) -> StoreError:
        return self._error(f"is damaged: {problem}; delete the folder")

    def _error(self, problem: str) -> StoreError:
        command = self.command(self.manifest)
        return StoreError(f"The {self.kind} {self.path} {problem}. Run\n  {command}")


def _allocate(path: Path, manifest: Manifest) -> None:
    """Put an empty store at ``path``, unless another process is faster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir()
    try:
        for name, (shape, dtype) in manifest.arrays.items():
            file = temporary / f"{name}.npy"
            np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
            # A memory map dies of a bus error on a full disk; this is a plain OSError.
            if hasattr(os, "posix_fallocate"):
                with open(file, "r+b") as opened:
                    os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        (temporary / _MANIFEST).write_text(manifest.to_json())
        os.rename(temporary, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
