"""Parts of a store: what each of several processes writes until one of them joins it.

Rows of one memory map share pages, and a network file system sends whole pages: of two nodes that
write neighbouring rows, one can undo what the other has written. So each process appends to a file
of its own below ``parts/`` in the store's folder, and only the main process writes the store.

A part is a sequence of records, one a write: the length of its body (8 bytes, little endian), a
sha256 (32 bytes) of the store's manifest and the body; the body, npy arrays one after another:
rows and counts (m,) int64, boxes and values of all m images in a row, as the store holds them. A
kill may cut off the last record. It is left out: its images are still to be done.
"""

import hashlib
import io
import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import numpy as np
from detectron2.utils import comm

from gridclip.data.store import PARTS, ArrayStore, StoreError

_LENGTH, _DIGEST = 8, hashlib.sha256().digest_size
_JOINED_AT_ONCE = 2**26  # bytes of records, as each write to the store waits for the disk

logger = logging.getLogger("detectron2.gridclip")


class Part:
    """The part that one process writes; its file is made with the first write.

    Args:
        store: whose rows they are; created, for writing.
    """

    def __init__(self, store: ArrayStore):
        self._store, self._seed = store, _seed(store)
        name = f"{comm.get_rank()}-{uuid.uuid4().hex}.part"
        self._path = store.path / PARTS / name
        self._file: io.BufferedWriter | None = None

    def write(
        self, rows: Sequence[int], boxes: Sequence[np.ndarray], values: Sequence[np.ndarray]
    ) -> None:
        """Append images; arguments and ValueError as of :meth:`ArrayStore.write`."""
        if not len(rows):
            return
        checked = [self._store.as_stored(*image) for image in zip(boxes, values, strict=True)]
        if len(rows) != len(checked):
            raise ValueError(f"{len(rows)} rows, but {len(checked)} images.")
        body = io.BytesIO()
        np.save(body, np.asarray(rows, dtype=np.int64))
        np.save(body, np.array([len(image_boxes) for image_boxes, _ in checked], dtype=np.int64))
        for arrays in zip(*checked, strict=True):
            np.save(body, np.concatenate(arrays))
        content = body.getvalue()
        digest = hashlib.sha256(self._seed + content).digest()
        if self._file is None:
            self._path.parent.mkdir(exist_ok=True)
            self._file = open(self._path, "xb")
        self._file.write(len(content).to_bytes(_LENGTH, "little") + digest + content)
        self._file.flush()  # what a killed process has written is kept

    def close(self) -> dict[str, int]:
        """Bring all to the disk. Returns the file's name and size in bytes; nothing if there is
        none."""
        if self._file is None:
            return {}
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._file.close()
        return {self._path.name: size}


def join(store: ArrayStore, told: Mapping[str, int] | None = None) -> None:
    """Move what the parts hold into the store, and delete them; for one process alone.

    A kill on the way loses nothing: a part is deleted after its rows are on the disk. Rows that are
    done stay as they are.

    Args:
        store: opened for writing.
        told: names and sizes of the parts that their processes have closed, see
            :meth:`Part.close`. Others are looked for: those of a run that was killed.

    Raises:
        StoreError: a part is damaged, of another store, or not as its process has left it. The
            message names the file.
    """
    told, folder = told or {}, store.path / PARTS
    names = {file.name for file in folder.glob("*.part")} | told.keys()
    for name in sorted(names):
        path, size = folder / name, told.get(name)
        found = path.stat().st_size if path.is_file() else 0
        if size not in (None, found):
            raise StoreError(
                f"{path} has {found:,} bytes, of the {size:,} that were written. Run the same "
                "command again, alone: on a network the rest may take a minute to be seen."
            )
        for rows, boxes, values in _grouped(_read(path, _seed(store), size is not None)):
            wanted = [i for i, done in enumerate(store.is_done(rows)) if not done]
            arrays = ([array[i] for i in wanted] for array in (boxes, values))
            store.write(rows[wanted].tolist(), *arrays)
        path.unlink()
    with suppress(OSError):  # there is none, or another run writes there
        folder.rmdir()


Images = tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]


def _grouped(records: Iterator[Images]) -> Iterator[Images]:
    """Several records as one: their rows, boxes and values. Before a StoreError come those that
    are sound."""
    group, size, damage = list[Images](), 0, None
    try:
        for record in records:
            group.append(record)
            size += sum(array.nbytes for array in record[2])
            if size >= _JOINED_AT_ONCE:
                yield _together(group)
                group, size = [], 0
    except StoreError as error:
        damage = error
    if group:
        yield _together(group)
    if damage is not None:
        raise damage


def _together(group: Sequence[Images]) -> Images:
    rows, boxes, values = zip(*group, strict=True)
    return np.concatenate(rows), list(chain(*boxes)), list(chain(*values))


def _read(path: Path, seed: bytes, closed: bool) -> Iterator[Images]:
    """Rows (m,), and the boxes and values of each, of every whole record; ``closed`` tells that all
    must be."""
    rest = path.stat().st_size
    with open(path, "rb") as file:
        while rest:
            length = int.from_bytes(file.read(_LENGTH), "little")
            digest, rest = file.read(_DIGEST), rest - _LENGTH - _DIGEST - length
            if rest < 0 and not closed:
                logger.warning(f"{path} ends within a write: these images are embedded again")
                return
            body = file.read(length) if rest >= 0 else b""
            if digest != hashlib.sha256(seed + body).digest():
                raise StoreError(
                    f"{path} is damaged, or of another store: its digest differs. What stands "
                    "before is kept. Delete that file and run the same command again."
                )
            arrays = io.BytesIO(body)
            rows, counts, *images = (np.load(arrays, allow_pickle=False) for _ in range(4))
            boxes, values = (np.split(array, counts.cumsum()[:-1]) for array in images)
            yield rows, boxes, values


def _seed(store: ArrayStore) -> bytes:
    """What the digests of a store's parts begin with: parts of another one do not fit."""
    return hashlib.sha256(store.manifest.to_json().encode()).digest()
