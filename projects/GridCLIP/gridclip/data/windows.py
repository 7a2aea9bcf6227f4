"""Windows: the parts of a picture that the frozen CLIP image encoder embeds one by one."""

import torch
from torch import Tensor

_WHOLE = [(0.0, 0.0, 1.0, 1.0)]
# Half the picture wide and high, in steps of a quarter, row by row.
_TILES9 = [(x, y, x + 0.5, y + 0.5) for y in (0.0, 0.25, 0.5) for x in (0.0, 0.25, 0.5)]

WINDOW_SETS = {"whole": _WHOLE, "tiles9": _TILES9, "whole+tiles9": _WHOLE + _TILES9}


def windows(name: str) -> Tensor:
    """Boxes of a window set.

    They lie in the coordinates of the picture as it is shown to the model: for a mirrored picture,
    the first tile is the top left one of the mirrored picture.

    Args:
        name: a key of ``WINDOW_SETS``.

    Returns:
        (V, 4) float32, XYXY relative to the picture's width and height, in [0, 1].

    Raises:
        ValueError: there is no such set.
    """
    if name not in WINDOW_SETS:
        raise ValueError(f"No window set {name!r}; there are {', '.join(WINDOW_SETS)}.")
    return torch.tensor(WINDOW_SETS[name], dtype=torch.float32)


def pixel_windows(boxes: Tensor, height: int, width: int) -> Tensor:
    """Relative boxes to whole pixels, rounded outwards.

    Rounding outwards leaves no window empty, however small the picture, and makes the windows of a
    mirrored picture the mirror image of the windows.

    Args:
        boxes: (V, 4) relative XYXY in [0, 1].
        height, width: of the picture in pixels.

    Returns:
        (V, 4) int64 XYXY; the right and lower edges are exclusive.
    """
    size = boxes.new_tensor([width, height, width, height])
    scaled = boxes * size
    return torch.cat([scaled[:, :2].floor(), scaled[:, 2:].ceil()], dim=1).long()
