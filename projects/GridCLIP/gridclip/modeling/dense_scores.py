"""Scores that also count what CLIP's own last map says of a candidate's category."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .products import inner_products


@dataclass(frozen=True)
class DenseScores:
    """score^(1 - weight) * p^weight, p by CLIP's dense embeddings at the candidate's location.

    The attention pool's value path puts every cell of ``res5`` into CLIP's space; p is a softmax
    over the vocabulary of its cosines to the text embeddings. The head has learned from the base
    categories alone, these embeddings from all that CLIP was trained on. The geometric mean is that
    of ViLD-ensemble (section 3.4) and F-VLM (section 3.3), with one weight for all categories.

    Attributes:
        scale: factor of the cosines.
        weight: in [0, 1]; 0 leaves the scores as they are.
    """

    scale: float
    weight: float = 0.15

    def probabilities(self, embeddings: Tensor, text_embeddings: Tensor) -> Tensor:
        """
        Args:
            embeddings: (N, D, H, W), of any length.
            text_embeddings: (C, D), of unit length.

        Returns:
            (N, H, W, C) float32, which sum to 1 over C.
        """
        unit = F.normalize(embeddings.float().permute(0, 2, 3, 1), dim=-1)
        return inner_products(self.scale * unit, text_embeddings.float()).softmax(dim=-1)

    def rescore(
        self, scores: Tensor, classes: Tensor, positions: Tensor, probabilities: Tensor
    ) -> Tensor:
        """
        Args:
            scores: (K,), of candidates.
            classes: (K,) int64, their categories.
            positions: (K, 2), x and y in cells of the map: 0.5 is the middle of the first.
            probabilities: (H, W, C), of their image.

        Returns:
            (K,) scores.
        """
        p = sample_bilinear(probabilities, positions, classes)
        return scores ** (1 - self.weight) * p**self.weight


def sample_bilinear(maps: Tensor, positions: Tensor, channels: Tensor) -> Tensor:
    """One channel of a map at each position, interpolated between the middles of its cells.

    As ``torch.nn.functional.grid_sample`` with padding_mode="border" and align_corners=False, which
    would sample all channels at each position.

    Args:
        maps, positions, channels: (H, W, C); (K, 2), x and y in cells; and (K,) int64.
    """
    height, width = maps.shape[:2]
    last = positions.new_tensor([width - 1, height - 1])
    clamped = (positions - 0.5).clamp(min=0).minimum(last)
    first = clamped.floor()
    fraction = clamped - first
    x0, y0 = first.long().unbind(dim=1)
    x1, y1 = (first + 1).minimum(last).long().unbind(dim=1)
    fx, fy = fraction.unbind(dim=1)
    upper = maps[y0, x0, channels] * (1 - fx) + maps[y0, x1, channels] * fx
    lower = maps[y1, x0, channels] * (1 - fx) + maps[y1, x1, channels] * fx
    return upper * (1 - fy) + lower * fy
