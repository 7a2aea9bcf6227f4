"""The words that an exported detector looks for."""

import json
import os
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Names and their text embeddings.

    Attributes:
        names: of the C categories, unique.
        embeddings: (C, D) float32, every row of unit length.
        clip_sha256: digest of the CLIP model's file; empty if not known.
    """

    names: tuple[str, ...]
    embeddings: np.ndarray
    clip_sha256: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError if names and rows do not belong together."""
        shape, dtype = self.embeddings.shape, self.embeddings.dtype
        if len(shape) != 2 or dtype != np.float32 or len(self.names) != shape[0]:
            raise ValueError(f"{len(self.names)} names have text embeddings {shape} {dtype}.")
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError("A vocabulary has at least one name, and none twice.")
        # Also false where one is not a number.
        if not (np.abs(np.linalg.norm(self.embeddings, axis=1) - 1) < 1e-3).all():
            raise ValueError("Text embeddings must have unit length.")

    def rows(self, names: Sequence[str]) -> "Vocabulary":
        """A part of it; every name must be in it."""
        place = {name: i for i, name in enumerate(self.names)}
        rows = self.embeddings[[place[name] for name in names]]
        return Vocabulary(tuple(names), rows, self.clip_sha256)

    def others(self, names: Sequence[str]) -> np.ndarray:
        """The embeddings (B, D) of its names that are not among these."""
        left = set(names)
        return self.embeddings[[i for i, name in enumerate(self.names) if name not in left]]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Vocabulary":
        """Of an exported file."""
        numbers = np.frombuffer(b64decode(value["embeddings"]), "<f4")
        names = tuple(value["names"])
        return cls(names, numbers.reshape(len(names), -1), value["clip_sha256"])

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Vocabulary":
        """Of a ``.safetensors`` file as ``gridclip embed`` writes it, or an ``.npz`` file with
        ``names`` and ``embeddings``. Nothing in it is run as code.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, of another kind, or its content is not valid.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"No text embeddings at {path}.")
        readers = {".safetensors": _read_safetensors, ".npz": _read_npz}
        if path.suffix not in readers:
            raise ValueError(f"{path} is neither a .safetensors nor an .npz file.")
        try:
            return cls(*readers[path.suffix](path))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(
                f"{path} holds no text embeddings with their names ({error}). Write it again with "
                "gridclip embed."
            ) from error


def _read_npz(path: Path) -> tuple[tuple[str, ...], np.ndarray, str]:
    with np.load(path, allow_pickle=False) as file:
        names, embeddings = file["names"], file["embeddings"].astype(np.float32)
    return tuple(map(str, names.tolist())), embeddings, ""


def _read_safetensors(path: Path) -> tuple[tuple[str, ...], np.ndarray, str]:
    """The header's length in 8 bytes, the header, which is JSON, then the tensors."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("it is not a whole safetensors file")
        header = json.loads(file.read(length))
        table, metadata = header["embeddings"], header["__metadata__"]
        if table["dtype"] != "F32":
            raise ValueError(f"its numbers are {table['dtype']}, not F32")
        begin, end = table["data_offsets"]
        file.seek(8 + length + begin)
        numbers = np.frombuffer(file.read(end - begin), "<f4")
    names = tuple(json.loads(metadata["names"]))
    return names, numbers.reshape(table["shape"]), json.loads(metadata["clip_sha256"])
