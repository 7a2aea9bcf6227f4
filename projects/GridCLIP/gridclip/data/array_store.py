"""Stores: arrays on disk, entries by image, filled by several processes and resumed after a kill.

A store is a folder with a ``manifest.json``, which says what is stored and how it was made, arrays
as npy files, read and written as memory maps, and ``done.npy``, (images,) uint8, one where an
image's entries are valid.
"""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from detectron2.utils import comm

_MANIFEST = "manifest.json"


class StoreError(ValueError):
    """A store is missing, incomplete, damaged, or not the one that is needed."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store holds; subclasses add fields and say which arrays there are.

    Attributes:
        version: of the files' format.
        dataset: name of the dataset.
        image_ids: one for every row, in the order of the rows; unique ints or strings.
    """

    version: ClassVar[int] = 1
    dataset: str
    image_ids: tuple[int | str, ...]

    def __post_init__(self):
        if not self.image_ids:
            raise StoreError("no images")
        odd = next((i for i in self.image_ids if type(i) not in (int, str)), None)
        if odd is not None:
            raise StoreError(f"image id {odd!r} is neither an int nor a string")
        if len(set(self.image_ids)) < len(self.image_ids):
            raise StoreError("some image ids occur twice")

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Shape and dtype of each array by its name, which is the file's stem."""
        return {"done": ((len(self.image_ids),), np.uint8)}

    @property
    def image_ids_sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.image_ids).encode()).hexdigest()

    def to_json(self) -> str:
        facts = {"version": self.version, "image_ids_sha256": self.image_ids_sha256}
        return json.dumps({**asdict(self), **facts})

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Raises StoreError for anything that ``to_json`` did not write."""
        try:
            entries = json.loads(text)
            digest, version = entries.pop("image_ids_sha256"), entries.pop("version")
            if version != cls.version:
                raise StoreError(f"format version {version}, where {cls.version} is needed")
            manifest = cls(**cls._decode(entries))
        except StoreError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"{type(error).__name__}: {error}") from error
        if digest != manifest.image_ids_sha256:
            raise StoreError("the image ids do not fit their digest")
        return manifest

    @classmethod
    def _decode(cls, entries: dict) -> dict:
        """JSON's lists to the fields' tuples."""
        return entries | {"image_ids": tuple(entries["image_ids"])}

    def differences(self, other: "Manifest") -> list[str]:
        """Names of the fields in which two manifests differ, with both values if short."""

        def describe(name: str) -> str:
            values = getattr(self, name), getattr(other, name)
            show = len if isinstance(values[0], tuple) else repr
            return f"{name} ({show(values[0])} and {show(values[1])})"

        names = [field.name for field in fields(self)]
        return [describe(n) for n in names if getattr(self, n) != getattr(other, n)]


class ArrayStore:
    """A store on disk; see the module's docstring for its files.

    Use :meth:`open` to read a complete store and :meth:`create` to fill one. Several processes of
    one machine may fill a store together, each its own rows. Pickling takes the path alone along:
    the copy maps the same files again.

    A subclass names itself in ``kind`` and ``contents``, its manifest in ``manifest_type``, gives
    :meth:`command`, maps its arrays in its constructor, and writes and reads them.

    Args:
        path: the folder.
        writable: whether rows can be written.
        needed: what :meth:`command` has to make, for the error if there is no store.

    Raises:
        StoreError: the folder is missing, or its files do not fit each other.
    """

    kind: ClassVar[str]
    contents: ClassVar[str]
    manifest_type: ClassVar[type[Manifest]]

    def __init__(self, path: str | os.PathLike, *, writable: bool = False, **needed):
        self.path, self.writable, self._needed = Path(path), writable, needed
        self.manifest = self._read_manifest()
        self._row_of = {image_id: row for row, image_id in enumerate(self.manifest.image_ids)}
        self._done = self._map("done")

    @classmethod
    def command(cls, path: str | os.PathLike, manifest: Manifest | None = None, **needed) -> str:
        """The command that makes a store or resumes it; ``needed`` overrides the manifest."""
        raise NotImplementedError

    def summary(self) -> str:
        """What it holds, in a line."""
        raise NotImplementedError

    @classmethod
    def create(cls, path: str | os.PathLike, manifest: Manifest):
        """Start a store, or resume one of the same manifest, for writing.

        A new store appears at once with all its files, so processes may race to create it.

        Raises:
            StoreError: there is a store with another manifest, or something else.
            OSError: the disk has no room for the store.
        """
        path = Path(path)
        if not (path / _MANIFEST).is_file():
            _allocate(path, manifest)
        store = cls(path, writable=True)
        if differences := manifest.differences(store.manifest):
            raise StoreError(
                f"The {cls.kind} {path} was made for something else: wanted and found "
                f"differ in {', '.join(differences)}. Delete that folder or choose another one."
            )
        return store

    @classmethod
    def create_in_turn(cls, path: str | os.PathLike, manifest: Manifest, rank: int, world: int):
        """:meth:`create` for all processes of a group: rank 0 first, so that the disk space is
        reserved once."""
        if world > 1 and rank > 0:
            comm.synchronize()
        try:
            return cls.create(path, manifest)
        finally:
            # Even if rank 0 fails: the others then fail with the same message instead of waiting.
            if world > 1 and rank == 0:
                comm.synchronize()

    @classmethod
    def open(cls, path: str | os.PathLike, **needed):
        """Open a complete store for reading.

        Args:
            path: the folder.
            needed: as in the constructor.

        Raises:
            StoreError: it is missing, damaged or incomplete; the message names the folder and the
                command that makes or completes it.
        """
        store = cls(path, **needed)
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

    def __reduce__(self):
        return partial(type(self), writable=self.writable), (self.path,)

    def _mark_done(self, rows: np.ndarray | int) -> None:
        # Flush the arrays first: a done byte must not reach the disk before what it vouches for.
        self._done[rows] = 1
        self._done.flush()

    def _row(self, image_id: int | str) -> int:
        row = self._row_of.get(image_id)
        if row is None:
            raise self._error(f"holds no image id {image_id!r}")
        if self._done[row] != 1:
            raise self._error(f"has no {self.contents} of image id {image_id!r} yet")
        return row

    def _missing(self, image_ids: Iterable[int | str]) -> list[str]:
        """What :meth:`check` says about images that are not in the store."""
        if missing := [i for i in image_ids if i not in self._row_of]:
            return [f"it lacks {len(missing)} images, the first is id {missing[0]!r}"]
        return []

    def _read_manifest(self) -> Manifest:
        try:
            return self.manifest_type.from_json((self.path / _MANIFEST).read_text())
        except OSError as error:
            raise StoreError(
                f"There is no {self.kind} at {self.path} ({error}). "
                f"Make it with\n  {self.command(self.path, **self._needed)}"
            ) from error
        except StoreError as error:
            raise StoreError(
                f"{self.path / _MANIFEST} is not a manifest: {error}. "
                f"Delete the folder of the {self.kind} and run\n"
                f"  {self.command(self.path, **self._needed)}"
            ) from error

    def _map(self, name: str) -> np.memmap:
        (shape, dtype), file = self.manifest.arrays[name], f"{name}.npy"
        try:
            # Read-only first: numpy fills a truncated file up with zeros when it may write.
            array = np.lib.format.open_memmap(self.path / file, mode="r")
        except (OSError, ValueError) as error:
            raise self._error(f"is damaged: {file}: {error}; delete the folder") from error
        if array.shape != shape or array.dtype != dtype:
            raise self._error(
                f"is damaged: {file} is {array.dtype} {array.shape}, its manifest asks for "
                f"{np.dtype(dtype)} {shape}; delete the folder"
            )
        if not self.writable:
            return array
        return np.lib.format.open_memmap(self.path / file, mode="r+")

    def _error(self, problem: str, **needed) -> StoreError:
        command = self.command(self.path, self.manifest, **(self._needed | needed))
        return StoreError(
            f"The {self.kind} {self.path} {problem}. Run\n  {command}{self._command_note()}"
        )

    def _command_note(self) -> str:
        """What else to know about the command."""
        return ""


def _allocate(path: Path, manifest: Manifest) -> None:
    """Put an empty store at ``path``, unless another process is faster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir()
    try:
        for name, (shape, dtype) in manifest.arrays.items():
            file = temporary / f"{name}.npy"
            np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
            _reserve(file)
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
