"""What all detectors of this comparison have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch.nn.functional as F
from torch import Generator, Tensor, randn

PYTORCH, BFLOAT16 = "pytorch_fp32", "pytorch_bf16"
OPENVINO, INT8 = "openvino_fp32", "openvino_int8"
FORMS = (PYTORCH, OPENVINO, INT8)
REQUIREMENTS = "requirements-peers.txt"


class Found(NamedTuple):
    """Detections of a picture.

    Attributes:
        boxes: (K, 4) float32, XYXY in pixels.
        scores, classes: (K,) float32, and (K,) of whole numbers.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor


# From a picture in memory, (3, H, W) uint8 RGB, to its detections.
Detect = Callable[[Tensor], Found]


class Scene(NamedTuple):
    """What a detector is measured on.

    Attributes:
        pictures: (3, H, W) uint8 RGB each, all of one size.
        names: how many are looked for.
    """

    pictures: list[Tensor]
    names: int

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.pictures[0].shape[-2:]
        return height, width


class Ready(Protocol):
    """A detector that is built for a scene.

    Attributes:
        parameters: number of those that run, so without a text encoder.
        gmac: multiply-adds of a picture, 1e9.
    """

    parameters: int
    gmac: float

    def open(self, form: str) -> Detect:
        """Raises whatever stands in the way of this form."""
        ...


@dataclass(frozen=True)
class Contestant:
    """
    Attributes:
        key, title: its name in JSON, and for people.
        post_processing: what follows the network, with its thresholds.
        prepare: builds it, with random weights and random text embeddings.
        forms: which are measured.
        side: of the square picture that it takes; None: any.
        names: how many it takes in one pass; None: any number.
    """

    key: str
    title: str
    post_processing: str
    prepare: Callable[[Scene], Ready]
    forms: tuple[str, ...] = FORMS
    side: int | None = None
    names: int | None = None


def unit_vectors(count: int, dim: int) -> Tensor:
    """(count, dim), the same in every call: text embeddings of made-up names."""
    return F.normalize(randn(count, dim, generator=Generator().manual_seed(count)), dim=1)


def missing(package: str) -> ImportError:
    return ImportError(
        f"{package} is missing: pip install --no-deps -r {REQUIREMENTS}, after make env."
    )
