"""The text embeddings of a vocabulary, and the file they are kept in."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor
from torch.nn import functional as F

from gridclip.files import replacing

_HEADER_FIELDS = ("names", "templates", "clip_model", "clip_sha256")
_HOW_TO_WRITE = "Write it again with scripts/precompute_text_embeddings.py."
_UNIT_NORM_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class TextEmbeddings:
    """One embedding a category, and where they come from. Only valid ones can be made.

    Attributes:
        names: the C categories' names, unique, in the order of the rows.
        embeddings: (C, D) float32, every row of unit norm.
        templates: the prompt templates that were averaged; empty if not known.
        clip_model: name of the CLIP model whose text encoder made them, such as "RN50".
        clip_sha256: hex digest of that model's file; empty if not known.

    Raises:
        ValueError: one of these is not as described; the message says which.
    """

    RANDOM: ClassVar[str] = "random"  # in place of a CLIP model's name

    names: tuple[str, ...]
    embeddings: Tensor
    templates: tuple[str, ...]
    clip_model: str
    clip_sha256: str

    def __post_init__(self) -> None:
        for field in ("names", "templates"):
            object.__setattr__(self, field, as_strings(getattr(self, field), field))
        for field in ("clip_model", "clip_sha256"):
            if not isinstance(getattr(self, field), str):
                raise ValueError(f"{field} must be a string, not {getattr(self, field)!r}.")
        if len(set(self.names)) != len(self.names):
            twice = sorted(name for name in set(self.names) if self.names.count(name) > 1)
            raise ValueError(f"Names must be unique; more than once: {quote(twice)}.")
        _check_embeddings(self.embeddings, self.names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dim(self) -> int:
        """D, the width of the CLIP space."""
        return self.embeddings.shape[1]

    def header(self) -> dict:
        """All but the embeddings, for a file's header."""
        return {field: getattr(self, field) for field in _HEADER_FIELDS}

    def save(self, path: str | os.PathLike) -> None:
        """Write one safetensors file, whole or not at all. Equal embeddings give equal bytes."""
        metadata = {field: json.dumps(value) for field, value in self.header().items()}
        with replacing(Path(path)) as partial:
            # safetensors' own save_file makes a file that only its owner can read.
            partial.write_bytes(
                _sort_header(to_safetensors({"embeddings": self.embeddings.contiguous()}, metadata))
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> "TextEmbeddings":
        """Read a file that ``save`` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, of another kind, or its content is not valid.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"No text embeddings at {path}. {_HOW_TO_WRITE}")
        try:
            with safe_open(path, framework="pt") as file:
                metadata, embeddings = file.metadata() or {}, file.get_tensor("embeddings")
            return cls(
                embeddings=embeddings, **{f: json.loads(metadata[f]) for f in _HEADER_FIELDS}
            )
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a safetensors file with a tensor 'embeddings' ({error}). "
                f"{_HOW_TO_WRITE} A table in .npy format is imported with --from-npy."
            ) from error
        except KeyError as error:
            raise ValueError(f"{path}: its header has no {error}. {_HOW_TO_WRITE}") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error} {_HOW_TO_WRITE}") from error

    @classmethod
    def from_npy(
        cls,
        path: str | os.PathLike,
        names: Sequence[str],
        *,
        clip_model: str,
        templates: Sequence[str] = (),
    ) -> "TextEmbeddings":
        """Import a plain table such as Detic's and normalise its rows.

        Args:
            path: a ``.npy`` file, (C, D), of any floating point type and row norm.
            names: the C names in the order of the rows.
            clip_model: name of the CLIP model that made the table.
            templates: the prompt templates that made it, if known.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not an array, holds pickled objects, or does not fit the names.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"No table of text embeddings at {path}.")
        try:
            with open(path, "rb") as file:
                table = np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise ValueError(
                f"{path} can't be read as an array: it is damaged, not an .npy file, or holds "
                f"pickled objects, which are refused ({error}). Save a plain array with numpy.save."
            ) from error
        shape = f"{table.shape} {table.dtype}"
        if table.ndim != 2 or table.dtype.kind != "f":
            raise ValueError(f"{path} must be a (C, D) floating point array, not {shape}.")
        if len(table) != len(names):
            hint = " It seems to be transposed." if table.shape[1] == len(names) else ""
            raise ValueError(
                f"{path} is a {table.shape} table for {len(names)} names.{hint} "
                "Give the names that it was made for, in the order of its rows."
            )
        embeddings = F.normalize(torch.from_numpy(table.astype(np.float32)), dim=1)
        try:
            return cls(tuple(names), embeddings, tuple(templates), clip_model, "")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def random(cls, names: Sequence[str], dim: int) -> "TextEmbeddings":
        """Random unit vectors, each of its name alone: for training without CLIP, on a vocabulary
        that stays as it is."""
        rows = []
        for name in names:
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
            rows.append(torch.randn(dim, generator=torch.Generator().manual_seed(seed)))
        return cls(tuple(names), F.normalize(torch.stack(rows), dim=1), (), cls.RANDOM, "")

    def check(
        self,
        names: Sequence[str] | None = None,
        dim: int | None = None,
        templates: Sequence[str] | None = None,
        clip_sha256: str | None = None,
    ) -> None:
        """Raise a ValueError, which names both sides, if one of these is given and differs. What
        the embeddings do not know of themselves is not compared."""
        if dim is not None and dim != self.dim:
            raise ValueError(
                f"The text embeddings have width {self.dim} (CLIP {self.clip_model}), but {dim} is "
                "needed. Run scripts/precompute_text_embeddings.py with the CLIP model in use."
            )
        if names is not None and tuple(names) != self.names:
            raise ValueError(_describe_difference(self.names, tuple(names)))
        if templates is not None and self.templates and tuple(templates) != self.templates:
            raise ValueError(
                f"The text embeddings are of {len(self.templates)} templates, the first "
                f"'{self.templates[0]}', and {len(templates)} are asked for, the first "
                f"'{templates[0]}'."
            )
        if clip_sha256 is not None and self.clip_sha256 and clip_sha256 != self.clip_sha256:
            raise ValueError(
                f"The text embeddings are of CLIP model {self.clip_model} (sha256 "
                f"{self.clip_sha256[:8]}...), and the weights in use have {clip_sha256[:8]}..."
            )


def _sort_header(file: bytes) -> bytes:
    """Sort the header of a safetensors file, whose fields the library writes in any order.

    Such a file is the header's length in 8 bytes, the header, which is JSON padded with spaces,
    and the tensors, whose offsets count from the header's end (safetensors' README).
    """
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[end:]


def as_strings(values: Sequence[str], field: str) -> tuple[str, ...]:
    """A tuple of strings. Raises ValueError, with the field's name, if it is not one or has an
    empty string."""
    if (
        not isinstance(values, Sequence)
        or isinstance(values, str)
        or not all(isinstance(value, str) and value.strip() for value in values)
    ):
        raise ValueError(f"{field} must be a list of strings, none of them empty.")
    return tuple(values)


def _check_embeddings(embeddings: Tensor, names: Sequence[str]) -> None:
    if embeddings.ndim != 2 or embeddings.dtype != torch.float32:
        shape, dtype = tuple(embeddings.shape), embeddings.dtype
        raise ValueError(f"Embeddings must be (C, D) float32, not {shape} {dtype}.")
    if len(embeddings) != len(names):
        raise ValueError(f"There are {len(embeddings)} embeddings for {len(names)} names.")
    if not torch.isfinite(embeddings).all():
        bad = (~torch.isfinite(embeddings).all(dim=1)).nonzero().flatten().tolist()
        raise ValueError(
            f"Embeddings must be finite; these are not: {quote([names[i] for i in bad])}."
        )
    norms = embeddings.norm(dim=1)
    bad = ((norms - 1).abs() > _UNIT_NORM_TOLERANCE).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"Embeddings must have unit norm; '{names[bad[0]]}' has {norms[bad[0]]:.4g}"
            f" ({len(bad)} of {len(names)} rows)."
        )


def _describe_difference(actual: tuple[str, ...], expected: tuple[str, ...]) -> str:
    if sorted(actual) == sorted(expected):
        fault = "have the names needed, but in another order"
    else:
        fault = f"are for {len(actual)} categories, and {len(expected)} others are needed"
    pairs = [(i, a, e) for i, (a, e) in enumerate(zip(actual, expected, strict=False)) if a != e]
    listed = "; ".join(f"{i}: '{a}' instead of '{e}'" for i, a, e in pairs[:3])
    return (
        f"The text embeddings {fault}. First differences: {listed or 'only the number of names'}."
        " Run scripts/precompute_text_embeddings.py with --names of the dataset in use."
    )


def quote(names: Sequence[str], limit: int = 5) -> str:
    """The first names in quotation marks, and how many more there are."""
    listed = ", ".join(f"'{name}'" for name in names[:limit])
    return listed + (f" and {len(names) - limit} more" if len(names) > limit else "")
