"""Regions: the parts of a picture that the frozen CLIP image encoder embeds one by one.

GridCLIP's regions are *windows*, the same for every picture: the whole of it, or tiles. ViLD's are
the *proposals* of a trained detector. :class:`Windows` and :class:`Proposals` say which boxes a
picture has and how each becomes an input of the encoder; :mod:`gridclip.data.teacher` does the
rest. Both have

* ``name`` and ``mirror`` (whether mirrored pictures are embedded too);
* ``digest()``, of the boxes, and ``boxes(image_id)``: (k, 4) float32 XYXY, relative to the picture
  for windows, in pixels for proposals; k is at most ``most``;
* ``describe(n)``: how a region becomes an input of n x n pixels, for the store's manifest;
* ``prepare(image, n)``: what the process that reads a picture makes of it, a uint8 array;
* ``inputs(prepared, boxes, n)``: (S, 3, n, n) float32 for each region in turn, S crops whose mean
  is its embedding, on the device of ``prepared``; those of the mirrored picture come last;
* ``batch(inputs)``: how many regions to embed at once where the encoder takes so many inputs.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import clip
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from gridclip.data.proposal_store import ProposalStore
from gridclip.data.store import StoreError

PROPOSALS = "proposals"

_WHOLE = [(0.0, 0.0, 1.0, 1.0)]
# Half the picture wide and high, in steps of a quarter, row by row.
_TILES9 = [(x, y, x + 0.5, y + 0.5) for y in (0.0, 0.25, 0.5) for x in (0.0, 0.25, 0.5)]

WINDOW_SETS = {"whole": _WHOLE, "tiles9": _TILES9, "whole+tiles9": _WHOLE + _TILES9}


@dataclass(frozen=True)
class Windows:
    """A window set; with ``mirror`` also of the mirrored pictures, whose windows come after.

    Windows lie in the coordinates of the picture as it is shown to the model: of a mirrored
    picture, the first tile is the top left one of the mirrored picture.
    """

    name: str
    mirror: bool = True

    @property
    def most(self) -> int:
        return len(windows(self.name))

    def digest(self) -> str:
        return hashlib.sha256(windows(self.name).numpy().tobytes()).hexdigest()

    def boxes(self, image_id: int | str) -> np.ndarray:
        return windows(self.name).numpy()

    def describe(self, resolution: int) -> str:
        return (
            f"RGB, EXIF orientation applied; each window squashed to {resolution} x {resolution}, "
            "bicubic; CLIP's mean and standard deviation; embeddings of unit norm"
        )

    def prepare(self, image: np.ndarray, resolution: int) -> np.ndarray:
        # Here and not in `inputs`, as Pillow is slow and many processes read pictures.
        variants = [image, np.ascontiguousarray(image[:, ::-1])] if self.mirror else [image]
        boxes = windows(self.name)
        return np.concatenate([window_crops(variant, boxes, resolution) for variant in variants])

    def inputs(self, prepared: Tensor, boxes: Tensor, resolution: int) -> Iterable[Tensor]:
        return normalised(prepared)[:, None]

    def batch(self, batch_size: int) -> int:
        per_picture = (1 + self.mirror) * self.most
        return per_picture * max(1, batch_size // per_picture)


@dataclass(frozen=True)
class Proposals:
    """The proposals of a complete store, each cropped at two scales.

    The crops are those of ViLD (section 3.3): the region itself and 1.5 times its size.
    """

    store: ProposalStore
    name: ClassVar[str] = PROPOSALS
    mirror: ClassVar[bool] = False
    scales: ClassVar[tuple[float, float]] = (1.0, 1.5)

    @property
    def most(self) -> int:
        return self.store.manifest.max_proposals

    def digest(self) -> str:
        return self.store.digest()

    def boxes(self, image_id: int | str) -> np.ndarray:
        return self.store.lookup(image_id)[0]

    def describe(self, resolution: int) -> str:
        return (
            f"RGB, EXIF orientation applied; crops at scales {self.scales}, clipped to the "
            f"picture, squashed to {resolution} x {resolution}, bicubic; CLIP's mean and standard "
            "deviation; mean of unit-norm embeddings, unit norm"
        )

    def prepare(self, image: np.ndarray, resolution: int) -> np.ndarray:
        return image

    def inputs(self, prepared: Tensor, boxes: Tensor, resolution: int) -> Iterable[Tensor]:
        for part in boxes.split(64):  # all of a picture's crops at once would fill the memory
            yield from region_inputs(prepared.permute(2, 0, 1), part, resolution)

    def batch(self, batch_size: int) -> int:
        return max(1, batch_size // len(self.scales))

    def records(self, dataset_dicts: Sequence[dict]) -> list[dict]:
        """The records of the proposals' pictures, in the order of the proposals.

        Raises:
            StoreError: the data set lacks some of them.
        """
        by_id = {record["image_id"]: record for record in dataset_dicts}
        image_ids = self.store.manifest.image_ids
        if missing := [i for i in image_ids if i not in by_id]:
            raise StoreError(
                f"{self.store.path} has proposals of {len(missing)} images that are not in the "
                f"dataset; the first is id {missing[0]!r}. The proposals were made for "
                f"{self.store.manifest.dataset!r}."
            )
        return [by_id[i] for i in image_ids]


Regions = Windows | Proposals


def windows(name: str) -> Tensor:
    """The boxes of a window set: (V, 4) float32, XYXY relative to the picture's width and height.

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
        boxes: (V, 4) XYXY in [0, 1].

    Returns:
        (V, 4) int64 XYXY; the right and lower edges are exclusive.
    """
    scaled = boxes * boxes.new_tensor([width, height, width, height])
    return torch.cat([scaled[:, :2].floor(), scaled[:, 2:].ceil()], dim=1).long()


def window_crops(image: np.ndarray, boxes: Tensor, resolution: int) -> np.ndarray:
    """Cut windows from a picture and resize each for CLIP's image encoder.

    A window is squashed to a square, where CLIP's own preprocessing would crop one, so that nothing
    of the picture is lost. For a square window the two are the same.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (V, 4) XYXY in [0, 1].
        resolution: n, the encoder's input size in pixels.

    Returns:
        (V, 3, n, n) uint8 RGB, as :func:`normalised` takes it.
    """
    picture = Image.fromarray(image)
    # Cropped before they are resized: the resampling filter must not look beyond a window.
    parts = [picture.crop(box) for box in pixel_windows(boxes, *image.shape[:2]).tolist()]
    size = (resolution, resolution)
    crops = np.stack([np.asarray(part.resize(size, Image.Resampling.BICUBIC)) for part in parts])
    return np.ascontiguousarray(crops.transpose(0, 3, 1, 2))


def normalised(crops: Tensor) -> Tensor:
    """Levels of 0..255 as CLIP's image encoder takes them, on their device.

    They equal those of CLIP's own preprocessing to the last bit, on a GPU as on the CPU.

    Args:
        crops: (..., 3, n, n) uint8 RGB.

    Returns:
        (..., 3, n, n) float32, normalised with CLIP's mean and standard deviation.
    """
    # A GPU multiplies by the reciprocal of a plain number, which differs in the last bit.
    most = torch.full((), 255.0, device=crops.device)
    return clip.clip._transform(crops.shape[-1]).transforms[-1](crops.float() / most)


def region_windows(boxes: Tensor, height: int, width: int) -> Tensor:
    """The part of a picture that a crop shows: boxes scaled about their centres, clipped to the
    picture, rounded outwards to whole pixels, never empty.

    As far as is known the paper's authors clip at the border too: the crop of a region there is not
    centred on it, and nothing is padded.

    Args:
        boxes: (k, 4) XYXY in pixels.

    Returns:
        (k, 2, 4) int64 XYXY at scales 1 and 1.5; the right and lower edges are exclusive.
    """
    boxes = boxes.double()[:, None]
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = (boxes[..., 2:] - boxes[..., :2]) / 2 * boxes.new_tensor(Proposals.scales)[:, None]
    size = torch.tensor([width, height], device=boxes.device)
    low = (centre - half).floor().long().clamp(min=0).minimum(size - 1)
    high = (centre + half).ceil().long().minimum(size).maximum(low + 1)
    return torch.cat([low, high], dim=-1)


def region_inputs(image: Tensor, boxes: Tensor, resolution: int) -> Tensor:
    """Cut regions from a picture and prepare them for CLIP's image encoder.

    A crop is squashed to a square, as windows are, by torch's antialiased bicubic resampling, which
    also runs on a GPU. CLIP's own preprocessing uses Pillow's. On photographs the two differ by at
    most 2 of 255 levels, 0.01 on average over a crop. Only crops higher than ``n`` differ more with
    Pillow 13, which shrinks some of them along the columns first, where torch begins with the rows;
    both clip to 0..255 in between. Single pixels at hard edges then differ by up to 20 levels, 0.3
    on average.

    Args:
        image: (3, H, W) uint8 RGB, on any device. On the CPU it is faster if the channels lie
            together in memory, as in a permuted (H, W, 3).
        boxes: (k, 4) XYXY in pixels.
        resolution: n, the encoder's input size in pixels.

    Returns:
        (k, 2, 3, n, n) float32, crops at scale 1 and 1.5 (see :func:`region_windows`), normalised
        with CLIP's mean and standard deviation, on the image's device.
    """
    crop_boxes = region_windows(boxes, *image.shape[1:]).tolist()
    if image.is_cuda:
        image = image.float()  # torch resamples whole numbers on the CPU only
    crops = image.new_empty(len(crop_boxes), len(Proposals.scales), 3, resolution, resolution)
    for i, scales in enumerate(crop_boxes):
        for j, (x0, y0, x1, y1) in enumerate(scales):
            crop = image[None, :, y0:y1, x0:x1]
            crops[i, j] = F.interpolate(
                crop, (resolution, resolution), mode="bicubic", antialias=True
            )[0]
    if image.is_cuda:
        crops = crops.round_().clamp_(0, 255)
    return clip.clip._transform(resolution).transforms[-1](crops.float() / 255)
