"""Image-level alignment: student vectors are pulled to the frozen CLIP encoder's, in training only.

The paper has the name and the idea. Losses, windows and pools are our reconstruction.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cos, for unit vectors of (W, D)."""
    return (1 - (student * teacher).sum(dim=-1)).mean()


def l1_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Absolute distance, summed over D, averaged over the vectors, as in ViLD."""
    return (student - teacher).abs().sum(dim=-1).mean()


def l2_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance, summed over D, averaged over the vectors."""
    return (student - teacher).square().sum(dim=-1).mean()


def contrastive_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy that tells each vector's own target from all others of the batch (InfoNCE).

    A student that gives the mean of its targets everywhere makes the distances above small. Here it
    has to say what its window shows and others do not. The batch is that of this process.
    """
    logits = CONTRASTIVE_SCALE * student @ teacher.T
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


CONTRASTIVE_SCALE = 20.0
LOSSES = {"cosine": cosine_loss, "l1": l1_loss, "l2": l2_loss, "contrastive": contrastive_loss}


@dataclass(frozen=True)
class Maps:
    """What a detector has made of a batch, and the windows of it that the teacher has seen.

    Attributes:
        detector: has the head's ``grid_embedding`` and the backbone's ``bottom_up``.
        features: the backbone's maps by name, each (N, channels, H, W).
        grid_features: (N, R, F), what ``grid_embedding`` takes; levels from fine to coarse.
        centers: (R, 2) float, x and y of the locations in pixels of the padded batch.
        windows: (N, V, 4) float, XYXY relative to the image's size. An empty window is left out: it
            has a vector like the others, which counts for nothing.
        image_sizes: N pairs of (height, width) in pixels, without padding.
    """

    detector: Any
    features: dict[str, Tensor]
    grid_features: Tensor
    centers: Tensor
    windows: Tensor
    image_sizes: list[tuple[int, int]]


class ImageAlignment(nn.Module):
    """Pools one student vector for each window of an image and compares it with the teacher's.

    A window is a part of the picture, or all of it, that the teacher saw as an image of its own.
    Subclasses say where the student's vector comes from.
    """

    def __init__(self, *, loss: str = "cosine", weight: float = 1.0):
        """``loss`` between unit vectors: "cosine", "l1", "l2" or "contrastive"."""
        super().__init__()
        self.loss = LOSSES[loss]
        self.weight = weight

    def forward(self, student: Tensor, teacher: Tensor, windows: Tensor) -> Tensor:
        """The weighted loss, a scalar, over the windows that are not empty.

        Args:
            student: (N, V, D), as :meth:`pool` returns it.
            teacher: (N, V, D) float32, the stored embeddings.
            windows: (N, V, 4), as in :class:`Maps`.

        Returns:
            zero, but with a gradient, if all windows are empty.
        """
        visible = (windows[..., 2:] > windows[..., :2]).all(dim=-1)
        if not visible.any():
            return 0.0 * student.float().sum()  # a mean over nothing would be NaN
        # The contrastive loss's matrix product in half precision would be wrong by hundredths.
        with torch.autocast(student.device.type, enabled=False):
            student = F.normalize(student[visible].float(), dim=-1)
            return self.weight * self.loss(student, F.normalize(teacher[visible], dim=-1))

    def pool(self, maps: Maps) -> Tensor:
        """The student's vectors (N, V, D), finite, not normalised."""
        raise NotImplementedError


class GridImageAlignment(ImageAlignment):
    """Pools the grid embeddings inside a window, weighted by a learned attention.

    The gradient reaches the head, which has to recognise categories without boxes.
    """

    def __init__(self, *, in_features: list[str], in_channels: int = 256, **kwargs: Any):
        """``in_features`` are the head's levels from fine to coarse, of ``in_channels`` each."""
        super().__init__(**kwargs)
        self.in_features = list(in_features)
        self.attention = nn.Conv2d(in_channels, 1, kernel_size=1)
        for parameter in self.attention.parameters():
            nn.init.zeros_(parameter)  # starts as the mean

    def pool(self, maps: Maps) -> Tensor:
        levels = [self.attention(maps.features[name]).flatten(1) for name in self.in_features]
        attention = torch.cat(levels, dim=1).float()  # (N, R)
        inside = _inside_windows(maps.centers, maps)
        # The least number, not minus infinity, whose softmax is NaN in a window without a location.
        least = torch.finfo(attention.dtype).min
        weights = attention.expand_as(inside).masked_fill(~inside, least).softmax(dim=-1) * inside
        # The embedding is linear: pooling before it costs less than after it.
        features = maps.grid_features
        pooled = torch.einsum("vnr,nrf->nvf", weights.to(features.dtype), features)
        return maps.detector.head.grid_embedding(pooled)


class DenseImageAlignment(ImageAlignment):
    """Pools CLIP's dense embeddings inside a window: the mean of those of ``res5``'s cells.

    :class:`DenseScores` reads them at inference. The gradient reaches the backbone alone: it may
    learn to detect, but has to stay in CLIP's space. The teacher sees each window enlarged, so it
    tells the cells more of what is there than they started with.
    """

    def pool(self, maps: Maps) -> Tensor:
        bottom_up, device = maps.detector.backbone.bottom_up, maps.windows.device
        embeddings = bottom_up.dense_embeddings(maps.features["res5"]).float()
        rows, columns = (torch.arange(size, device=device) + 0.5 for size in embeddings.shape[-2:])
        cells = torch.cartesian_prod(rows, columns).flip(1) * bottom_up.size_divisibility
        inside = _inside_windows(cells, maps).float()
        weights = inside / inside.sum(dim=-1, keepdim=True).clamp(min=1)
        return torch.einsum("vnr,ndr->nvd", weights, F.normalize(embeddings, dim=1).flatten(2))


class BackboneImageAlignment(ImageAlignment):
    """Pools the last map of the backbone by CLIP's own attention pool.

    This student starts as a copy of the teacher: the term can only keep the backbone as it was.
    """

    def pool(self, maps: Maps) -> Tensor:
        bottom_up, pooled = maps.detector.backbone.bottom_up, []
        for feature, (height, width), own in zip(
            maps.features["res5"], maps.image_sizes, maps.windows, strict=True
        ):
            scale = own.new_tensor([width, height, width, height]) / bottom_up.size_divisibility
            for x0, y0, x1, y1 in (own * scale).tolist():
                rows = slice(int(y0), max(round(y1), int(y0) + 1))
                columns = slice(int(x0), max(round(x1), int(x0) + 1))
                pooled.append(bottom_up.image_embedding(feature[None, :, rows, columns]))
        return torch.cat(pooled).unflatten(0, maps.windows.shape[:2])


def _inside_windows(centers: Tensor, maps: Maps) -> Tensor:
    """Which locations (R, 2) lie in which windows of which images: (V, N, R) bool."""
    sizes = centers.new_tensor(maps.image_sizes).flip(1)  # (N, 2): width, height
    positions = centers[None] / sizes[:, None]  # (N, R, 2), relative to each image
    top_left, bottom_right = maps.windows.transpose(0, 1)[:, :, None].split(2, dim=-1)
    return ((positions >= top_left) & (positions < bottom_right)).all(dim=-1)
