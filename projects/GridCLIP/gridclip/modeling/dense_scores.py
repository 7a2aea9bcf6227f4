"""Scores that also count what CLIP's own last map says of a candidate's category."""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from .products import inner_products

_ALL = slice(None)


@dataclass(frozen=True)
class DenseScores:
    """score^(1 - weight) * p^weight, p by CLIP's dense embeddings at the candidate's location.

    The attention pool's value path puts every cell of ``res5`` into CLIP's space; p is a softmax
    over the vocabulary of its cosines to the text embeddings. The head has learned from the base
    categories alone, these embeddings from all that CLIP was trained on. The geometric mean is that
    of ViLD-ensemble (section 3.4) and F-VLM (section 3.3).

    Attributes:
        scale: factor of the cosines.
        weight: in [0, 1]; 0 leaves the scores as they are.
        novel_weight: that of novel categories, where the classifier knows them; None: ``weight``.
    """

    scale: float
    weight: float = 0.15
    novel_weight: float | None = None

    def probabilities(
        self, embeddings: Tensor, text_embeddings: Tensor, competitors: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            embeddings: (N, D, H, W), of any length.
            text_embeddings: (C, D), of unit length.
            competitors: (B, D), of unit length; names that take part in the softmax alone.

        Returns:
            (N, H, W, C) float32. With those of the competitors they sum to 1.
        """
        unit = F.normalize(embeddings.float().permute(0, 2, 3, 1), dim=-1)
        names = text_embeddings.float()
        if competitors is not None and len(competitors):
            names = torch.cat([names, competitors.float()])
        p = inner_products(self.scale * unit, names)
        # A softmax in place: of many names, another map of this size takes longer than its sums.
        p = p.sub_(p.amax(dim=-1, keepdim=True)).exp_()
        p = p.div_(p.sum(dim=-1, keepdim=True))
        return p[..., : text_embeddings.shape[0]]

    def check(self, is_novel: Tensor) -> None:
        """Raises ValueError if there is a weight for novel categories, and none is known."""
        if self.novel_weight is not None and not is_novel.any():
            raise ValueError(
                f"dense_scores has novel_weight={self.novel_weight}, but the classifier knows of "
                "no novel category: set model.classifier.novel_classes, or novel_weight=null."
            )

    def weights(self, is_novel: Tensor) -> Tensor:
        """The exponent of each category's p: (C,) float, of ``is_novel`` (C,) bool."""
        novel = self.weight if self.novel_weight is None else self.novel_weight
        return torch.where(is_novel, novel, self.weight)


def combine(scores: Tensor, p: Tensor, weight: Tensor | float) -> Tensor:
    """The weighted geometric mean scores^(1 - weight) * p^weight, all broadcast."""
    return scores ** (1 - weight) * p**weight


class DenseMap:
    """The dense probabilities of an image at R locations, interpolated between middles of cells.

    As ``torch.nn.functional.grid_sample`` with padding_mode="border" and align_corners=False, for
    maps of many channels. Rows are indices of the locations, a tensor or a slice.
    """

    def __init__(self, probabilities: Tensor, weights: Tensor, stride: int, centers: Tensor):
        """
        Args:
            probabilities: (H, W, C) float32.
            weights: (C,), of :meth:`DenseScores.weights`.
            stride: pixels of a cell.
            centers: (R, 2), x and y of the locations in pixels.
        """
        self.probabilities, self.weights = probabilities, weights
        height, width = probabilities.shape[:2]
        x, y = (centers / stride - 0.5).clamp(min=0).unbind(dim=1)
        x, y = x.clamp(max=width - 1), y.clamp(max=height - 1)
        x0, y0 = x.long(), y.long()
        x1, y1 = (x0 + 1).clamp(max=width - 1), (y0 + 1).clamp(max=height - 1)
        fx, fy = x - x0, y - y0
        cells = [y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1]
        shares = [(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy]
        # The four cells around a location, and their shares.
        self._cells, self._shares = torch.stack(cells, dim=1), torch.stack(shares, dim=1)

    @cached_property
    def _best(self) -> Tensor:
        """The best p at each location: (R,)."""
        return self._interpolate(self.probabilities.amax(dim=2, keepdim=True)).squeeze(1)

    def at(self, rows: Tensor | slice = _ALL, names: slice = _ALL) -> Tensor:
        """p (K, C) of the rows, of some categories or all."""
        return self._interpolate(self.probabilities[..., names], rows)

    def combine(self, scores: Tensor, rows: Tensor | slice = _ALL, names: slice = _ALL) -> Tensor:
        """
        Args:
            scores: (K, C), of the head at the rows; they are overwritten.
            names: the categories of the scores.
        """
        # As combine() does: but more matrices of this size would cost more than what is computed.
        weights = self.weights[names]
        return scores.pow_(1 - weights).mul_(self.at(rows, names).pow_(weights))

    def bound(self, scores: Tensor, rows: Tensor | slice = _ALL) -> Tensor:
        """At least the best of :meth:`combine` at each row, from the best of ``scores`` (K,)."""
        p, weights = self._best[rows], self.weights
        return combine(scores, p, weights.min()).maximum(combine(scores, p, weights.max()))

    def _interpolate(self, maps: Tensor, rows: Tensor | slice = _ALL) -> Tensor:
        """(K, C) of maps (H, W, C)."""
        cells, shares = self._cells[rows], self._shares[rows]
        maps = maps.flatten(0, 1).contiguous()
        return F.embedding_bag(cells, maps, mode="sum", per_sample_weights=shares)
