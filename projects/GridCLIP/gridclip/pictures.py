"""Pictures as the detector takes them: upright, RGB, 8 bits."""

import glob
import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from detectron2.data.detection_utils import _apply_exif_orientation, convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image

Picture = str | os.PathLike | Image.Image | np.ndarray


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
    pictures: dict[Path, None] = {}
    others: dict[Path, None] = {}
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            candidates = sorted(path.iterdir())
        elif path.exists() or not (matches := sorted(glob.glob(given, recursive=True))):
            pictures[path] = None
            continue
        else:
            candidates = [Path(match) for match in matches]
        for candidate in candidates:
            if not candidate.name.startswith("."):
                (pictures if _is_picture(candidate) else others)[candidate] = None
    return Found(list(pictures), [path for path in others if path not in pictures])


def find_pictures(inputs: Sequence[str]) -> list[Path]:
    """The pictures among what :func:`find_files` finds.

    Raises:
        ValueError: a folder holds no pictures.
    """
    for given in inputs:
        if os.path.isdir(given) and not find_files([given]).pictures:
            raise ValueError(f"There are no pictures in {given}.")
    return find_files(inputs).pictures


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
    if isinstance(source, np.ndarray):
        kind = f"{source.shape} {source.dtype}"
        if source.dtype != np.uint8 or source.shape[2:] != (3,) or not source.size:
            raise ValueError(f"A picture must be an (H, W, 3) uint8 RGB array, not {kind}.")
        return source
    if isinstance(source, Image.Image):
        return _to_rgb(source)
    path = os.fspath(source)
    if not PathManager.exists(path):
        raise FileNotFoundError(f"No picture at {path}.")
    try:
        with PathManager.open(path, "rb") as file, Image.open(file) as image:
            return _to_rgb(image)
    except Exception as error:  # every image format has its own exceptions for a damaged file
        reason = f"{type(error).__name__}: {error}".rstrip(".")
        raise ValueError(f"{path} can't be read as a picture ({reason}).") from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    # PIL opens PGMs of 16 bits, and in older versions PNGs, as 32-bit integers.
    is_16_bit = image.mode[:4] == "I;16" or (image.mode == "I" and image.format in ("PPM", "PNG"))
    if image.mode in ("I", "F") and not is_16_bit:
        raise ValueError(
            f"The pixels are 32-bit numbers (PIL's mode {image.mode}), whose range is not known. "
            "Save the picture with 8 or 16 bits a channel."
        )
    image.load()  # which turns a TIFF upright, and takes its orientation away
    image = _apply_exif_orientation(image)
    if not is_16_bit:
        return convert_PIL_to_numpy(image, "RGB")
    # PIL's own conversion to 8 bits cuts at 255: nearly all becomes white.
    grey = (np.asarray(image).astype(np.uint32) + 128) // 257
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
