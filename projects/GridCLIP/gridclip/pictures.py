"""Pictures as the detector takes them: upright, RGB, 8 bits."""

import glob
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from detectron2.data.detection_utils import _apply_exif_orientation, convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image

Picture = str | os.PathLike | Image.Image | np.ndarray


@cache
def picture_suffixes() -> frozenset[str]:
    """Those of the files that PIL can open: ".jpg", ".png", ..."""
    suffixes = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in suffixes.items() if kind in Image.OPEN)


def find_pictures(inputs: Sequence[str]) -> list[Path]:
    """The files that paths, folders and glob patterns name, each once.

    A path that does not exist is kept: it is reported like other unreadable files.

    Raises:
        ValueError: a folder holds no pictures.
    """
    found = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            suffixes = picture_suffixes()
            pictures = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes)
            if not pictures:
                raise ValueError(f"There are no pictures in {path}.")
            found += pictures
        else:
            matches = [] if path.exists() else sorted(glob.glob(given, recursive=True))
            found += [Path(match) for match in matches] or [path]
    return list(dict.fromkeys(found))


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
    image = _apply_exif_orientation(image)
    if not is_16_bit:
        return convert_PIL_to_numpy(image, "RGB")
    # PIL's own conversion to 8 bits cuts at 255: nearly all becomes white.
    grey = (np.asarray(image).astype(np.uint32) + 128) // 257
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
