"""What CLIP itself says of a proposal's category: by its dense embeddings or its attention pool."""

import torch
import torch.nn.functional as F
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor

from gridclip.modeling import CLIPResNet, DenseScores, TextClassifier
from gridclip.modeling.dense_scores import combine


class RegionScores(DenseScores):
    """GridCLIP's dense scores for boxes: p is of the mean of CLIP's dense embeddings in the box."""

    def region_probabilities(
        self, trunk: CLIPResNet, res5: Tensor, boxes: list[Boxes], classifier: TextClassifier
    ) -> Tensor:
        """
        Args:
            trunk: whose dense embeddings or attention pool is used.
            res5: (N, channels, H, W) float32, its last map.
            boxes: of each of the N images, in pixels of the batch; R in all.
            classifier: has the C categories' text embeddings, and their competitors'.

        Returns:
            (R, C) float32, as :meth:`probabilities`.
        """
        embeddings = self._embed(trunk, res5, boxes)[:, :, None, None]
        text, others = classifier.text_embeddings, classifier.competitors
        return self.probabilities(embeddings, text, others)[:, 0, 0]

    def rescore(self, scores: Tensor, p: Tensor, is_novel: Tensor) -> Tensor:
        """All scores combined with p; that of the background stays as it is.

        Args:
            scores: (R, C + 1), the last of the background.
            p: (R, C).
            is_novel: (C,) bool.

        Returns:
            (R, C + 1).
        """
        combined = combine(scores[:, :-1], p, self.weights(is_novel))
        return torch.cat([combined, scores[:, -1:]], dim=1)

    def _embed(self, trunk: CLIPResNet, res5: Tensor, boxes: list[Boxes]) -> Tensor:
        """The boxes' embeddings, (R, D), of any length."""
        # Of unit length in each cell, as in DenseImageAlignment.
        embeddings = F.normalize(trunk.dense_embeddings(res5), dim=1)
        return _crop(trunk, embeddings, boxes, 1).flatten(1)


class PooledRegionScores(RegionScores):
    """F-VLM's scores (arXiv 2209.15639, section 3.3): p is of CLIP's own embedding of the box.

    The attention pool takes the box as a picture: its part of ``res5``, at the pool's native size.
    As in the official code, the combined scores of a box sum to 1, that of the background included.
    """

    def rescore(self, scores: Tensor, p: Tensor, is_novel: Tensor) -> Tensor:
        return F.normalize(super().rescore(scores, p, is_novel), p=1, dim=1)

    def _embed(self, trunk: CLIPResNet, res5: Tensor, boxes: list[Boxes]) -> Tensor:
        side = trunk.input_resolution // trunk.size_divisibility
        return trunk.image_embedding(_crop(trunk, res5, boxes, side))


def _crop(trunk: CLIPResNet, maps: Tensor, boxes: list[Boxes], side: int) -> Tensor:
    """The boxes' parts of the maps, resized: (R, channels, side, side)."""
    pooler = ROIPooler(side, [1 / trunk.size_divisibility], 0, "ROIAlignV2")
    return pooler([maps], boxes)
