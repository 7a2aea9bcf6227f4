"""Pictures for inference, and training batches with about as many boxes an image as LVIS."""

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from gridclip.data.regions import windows
from gridclip.pictures import read_picture

BOXES = 12  # LVIS train has 12.7 an image
NEGATIVES = 10
REGIONS = 300  # ViLD's precomputed proposals an image
_SUFFIXES = (".jpg", ".jpeg", ".png")


def random_pictures(count: int, height: int, width: int, seed: int = 0) -> list[Tensor]:
    """(3, height, width) uint8 each: clouds of colour with rectangles of many sizes on them."""
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for _ in range(count):
        clouds = torch.rand(1, 3, 12, 16, generator=generator)
        picture = F.interpolate(clouds, (height, width), mode="bicubic")[0]
        for x0, y0, x1, y1 in random_boxes(40, height, width, generator).round().int().tolist():
            picture[:, y0:y1, x0:x1] = torch.rand(3, 1, 1, generator=generator)
        picture += 0.03 * torch.randn(picture.shape, generator=generator)
        pictures.append((255 * picture).clamp(0, 255).byte())
    return pictures


def random_boxes(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(count, 4) XYXY in pixels; sides are 3% to 60% of the picture's, log-uniform."""
    extent = torch.tensor([width, height])
    sizes = 0.03 * 20 ** torch.rand(count, 2, generator=generator)
    corners = torch.rand(count, 2, generator=generator) * (1 - sizes)
    return torch.cat([corners * extent, (corners + sizes) * extent], dim=1)


def read_pictures(folder: Path, height: int, width: int) -> list[Tensor]:
    """The pictures of a folder, (3, H, W) uint8 RGB.

    Each is scaled to fit into height x width, or into width x height if it is upright.

    Raises:
        FileNotFoundError: the folder has no pictures.
    """
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in _SUFFIXES)
    if not files:
        raise FileNotFoundError(f"No pictures ({', '.join(_SUFFIXES)}) in {folder}.")
    resize = T.ResizeShortestEdge(min(height, width), max(height, width))
    pictures = []
    for file in files:
        scaled = T.AugInput(read_picture(file))
        resize(scaled)
        pictures.append(torch.from_numpy(scaled.image.copy()).permute(2, 0, 1).contiguous())
    return pictures


def inference_batches(pictures: list[Tensor], batch_size: int) -> list[list[dict]]:
    """All pictures in batches; the last batch is filled up with the first pictures."""
    count = -(-len(pictures) // batch_size)
    endless = itertools.cycle(pictures)
    return [[{"image": next(endless)} for _ in range(batch_size)] for _ in range(count)]


def training_batch(model: nn.Module, pictures: list[Tensor], window_set: str) -> list[dict]:
    """Pictures with random values for everything that GridCLIP and ViLD learn from.

    Args:
        model: gives the number of categories, which of them are novel and so never annotated, and
            the width of the embeddings.
        window_set: the windows that have an image embedding, as ``windows`` names the sets.
    """
    generator = torch.Generator().manual_seed(0)
    classifier = getattr(model, "classifier", None)
    embed_dim = classifier.embed_dim if classifier else 1
    classes = torch.arange(model.num_classes)
    if hasattr(classifier, "is_novel"):
        classes = classes[~classifier.is_novel.cpu()]

    def vectors(count: int) -> Tensor:
        return F.normalize(torch.randn(count, embed_dim, generator=generator), dim=1)

    parts = windows(window_set)
    batch = []
    for picture in pictures:
        height, width = picture.shape[1:]
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(random_boxes(BOXES, height, width, generator))
        drawn = torch.randint(len(classes), (BOXES,), generator=generator)
        instances.gt_classes = classes[drawn]
        batch.append(
            {
                "image": picture,
                "instances": instances,
                "negative_classes": classes[
                    torch.randperm(len(classes), generator=generator)[:NEGATIVES]
                ],
                "not_exhaustive_classes": torch.empty(0, dtype=torch.long),
                "image_embeddings": vectors(len(parts)),
                "image_windows": parts,
                "region_boxes": random_boxes(REGIONS, height, width, generator),
                "region_embeddings": vectors(REGIONS),
            }
        )
    return batch
