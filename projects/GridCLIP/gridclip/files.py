"""Files that are never half written: they are written beside their place, then moved there. And
their digests."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, with its suffix, that replaces it once all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of two nodes may have one number.
    partial = path.with_name(f".partial-{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Write strict JSON atomically. Raises ValueError for nan and infinity."""
    text = json.dumps(value, indent=indent, allow_nan=False)
    with replacing(path) as partial:
        partial.write_text(f"{text}\n", encoding="utf-8")


def write_json_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write a list, one row a line, as :func:`write_json` does, without holding it in memory."""
    with replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
        before = "["
        for row in rows:
            file.write(f"{before}{json.dumps(row, allow_nan=False)}")
            before = ",\n"
        file.write("]\n" if before != "[" else "[]\n")


def sha256_of_file(path: str | os.PathLike) -> str:
    """Hex sha256 digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
