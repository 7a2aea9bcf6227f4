"""Pictures as the detector takes them: upright, RGB, 8 bits."""

import glob
import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image

from gridclip_runtime import pictures
from gridclip_runtime.pictures import Picture

# PIL knows these by their first bytes, and can't read their pixels.
_WITHOUT_PIXELS = frozenset({"BUFR", "GRIB", "HDF5", "MPEG", "WMF"})


@cache
def picture_suffixes() -> frozenset[str]:
    """Those of the files that PIL can read: ".jpg", ".png", ..."""
    kinds = frozenset(Image.registered_extensions().items())
    readable = Image.OPEN.keys() - _WITHOUT_PIXELS
    return frozenset(suffix for suffix, kind in kinds if kind in readable)


class Found(NamedTuple):
    """What paths name.

    Attributes:
        pictures: files, each once.
        others: what folders and patterns hold beside them: other files, and folders.
    """

    pictures: list[Path]
    others: list[Path]


def find_files(inputs: Iterable[str]) -> Found:
    """What paths, folders and glob patterns name.

    In folders and among the matches of a pattern a picture is what PIL reads, whatever its name,
    and what is named like a picture, so that a damaged one is reported. Folders in folders are not
    searched (a pattern with ``**`` does that), and files whose names begin with a dot are left out.
    A path that is named itself is kept, even if it does not exist: it is reported when it is read.
    """
    found: dict[Path, None] = {}
    others: dict[Path, None] = {}
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            candidates = sorted(path.iterdir())
        elif path.exists() or not (matches := sorted(glob.glob(given, recursive=True))):
            found[path] = None
            continue
        else:
            candidates = [Path(match) for match in matches]
        for candidate in candidates:
            if not candidate.name.startswith("."):
                (found if _is_picture(candidate) else others)[candidate] = None
    return Found(list(found), [path for path in others if path not in found])


def find_pictures(inputs: Sequence[str]) -> list[Path]:
    """The pictures among what :func:`find_files` finds.

    Raises:
        ValueError: a folder holds no pictures.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        own = find_files([given]).pictures
        if not own and os.path.isdir(given):
            raise ValueError(f"There are no pictures in {given}.")
        found.update(dict.fromkeys(own))
    return list(found)


def _is_picture(path: Path) -> bool:
    if path.exists() and not path.is_file():  # a folder, or a pipe, which would block
        return False
    if path.suffix.lower() in picture_suffixes():
        return True
    try:
        with Image.open(path) as image:
            return image.format not in _WITHOUT_PIXELS
    except (PermissionError, Image.DecompressionBombError):
        return True  # it may be one: reading it will say what is wrong
    except Exception:  # every image format has its own exceptions
        return False


def read_picture(source: Picture) -> np.ndarray:
    """An upright (H, W, 3) uint8 RGB array of a file, a PIL image, or such an array itself.

    Files and PIL images are turned as their EXIF orientation says. Of 16-bit greyscale 65535
    becomes 255. Transparency is dropped, and of an animation the first frame is taken.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it can't be read as a picture (the message names the file), it holds 32-bit
            numbers, whose range is not known, or an array has another shape or type.
    """
    if isinstance(source, str | os.PathLike):
        source = PathManager.get_local_path(os.fspath(source))
    return pictures.read_picture(source)


def coloured_blocks(height: int, width: int, *, count: int = 1, seed: int = 0) -> np.ndarray:
    """(count, height, width, 3) uint8: pictures of blocks of 8 x 8 pixels in random colours, smooth
    enough for a detector to see something in them."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, -(-height // 8), -(-width // 8), 3), np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
