"""Pictures as an exported detector takes them."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

Picture = str | os.PathLike | Image.Image | np.ndarray

_ORIENTATION = 0x0112  # EXIF's tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(source: Picture) -> np.ndarray:
    """An upright (H, W, 3) uint8 RGB array of a file, a PIL image, or such an array itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it can't be read as a picture, or an array has another shape or type.
    """
    if isinstance(source, np.ndarray):
        return check_array(source)
    if isinstance(source, Image.Image):
        return to_rgb(source)
    path = os.fspath(source)
    if not os.path.exists(path):
        raise FileNotFoundError(f"No picture at {path}.")
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    except Exception as error:  # every image format has its own exceptions for a damaged file
        reason = f"{type(error).__name__}: {error}".rstrip(".")
        raise ValueError(f"{path} can't be read as a picture ({reason}).") from error


def check_array(pixels: np.ndarray) -> np.ndarray:
    """Raises ValueError if it is not an (H, W, 3) uint8 array."""
    if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,) or not pixels.size:
        kind = f"{pixels.shape} {pixels.dtype}"
        raise ValueError(f"A picture must be an (H, W, 3) uint8 RGB array, not {kind}.")
    return pixels


def to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8, turned as the EXIF orientation says.

    Of 16-bit greyscale 65535 becomes 255. Transparency is dropped, and of an animation the first
    frame is taken. Raises ValueError for 32-bit numbers, whose range is not known.
    """
    # PIL opens PGMs of 16 bits, and in older versions PNGs, as 32-bit integers.
    is_16_bit = image.mode[:4] == "I;16" or (image.mode == "I" and image.format in ("PPM", "PNG"))
    if image.mode in ("I", "F") and not is_16_bit:
        raise ValueError(
            f"The pixels are 32-bit numbers (PIL's mode {image.mode}), whose range is not known. "
            "Save the picture with 8 or 16 bits a channel."
        )
    image.load()  # which turns a TIFF upright, and takes its orientation away
    image = _upright(image)
    if not is_16_bit:
        return np.asarray(image.convert("RGB"))
    # PIL's own conversion to 8 bits cuts at 255: nearly all becomes white.
    grey = (np.asarray(image).astype(np.uint32) + 128) // 257
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # PIL's, of damaged EXIF data, which says nothing of the pixels
        turn = None
    return image if turn is None else image.transpose(turn)


def resized(pixels: np.ndarray, resize: Sequence[int] | None) -> np.ndarray:
    """The picture with its shorter side of ``resize[0]`` pixels, or less where the longer would
    pass ``resize[1]``; None: as it is. Raises ValueError if a side would have no pixel left."""
    if resize is None:
        return pixels
    height, width = pixels.shape[:2]
    short, longest = resize
    scale = short / min(height, width)
    # In this order of operations, as rounding decides about a pixel.
    new = (short, scale * width) if height < width else (scale * height, short)
    if max(new) > longest:
        scale = longest / max(new)
        new = (new[0] * scale, new[1] * scale)
    new_height, new_width = (int(side + 0.5) for side in new)
    if not new_height or not new_width:
        raise ValueError(f"A picture of {width} x {height} pixels is too thin.")
    image = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BILINEAR)
    return np.asarray(image)


def as_input(pixels: np.ndarray, multiple: int, padding: Sequence[float]) -> np.ndarray:
    """(1, 3, H, W) float32, on the right and at the bottom filled to a multiple of pixels.

    Args:
        padding: of each channel, what fills it: the mean that the detector subtracts.
    """
    height, width = pixels.shape[:2]
    sides = (-(-side // multiple) * multiple for side in (height, width))
    image = np.empty((1, 3, *sides), np.float32)
    image[:] = np.asarray(padding, np.float32).reshape(1, 3, 1, 1)
    image[0, :, :height, :width] = pixels.transpose(2, 0, 1)
    return image
