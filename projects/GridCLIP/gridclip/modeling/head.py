"""The dense heads: FCOS towers, one of which ends in an embedding instead of class scores."""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.fcos import FCOSHead
from torch import Tensor, nn


class GridHead(FCOSHead):
    """detectron2's FCOS head with a grid embedding in CLIP's space at every location.

    The embedding is ``grid_embedding(features)``, a linear map without bias. Classification is
    folded into it, so the forward pass returns the features.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_levels: int,
        conv_dims: list[int],
        embed_dim: int,
        box_bias: float = 0.0,
    ):
        """
        Args:
            in_channels, num_levels: of the pyramid, whose levels share the towers.
            conv_dims: output channels of each convolution of a tower.
            embed_dim: D.
            box_bias: of the box deltas at first, in anchors. Around 0 half of the deltas are
                negative, where detectron2's transform has no gradient.
        """
        super().__init__(
            input_shape=[ShapeSpec(channels=in_channels)] * num_levels,
            conv_dims=conv_dims,
            num_classes=embed_dim,
            norm="GN",
        )
        # In place of a 3 x 3 convolution, which nothing can be folded into cheaply.
        self.cls_score = nn.Identity()
        self.grid_embedding = nn.Linear(conv_dims[-1], embed_dim, bias=False)
        nn.init.normal_(self.grid_embedding.weight, std=0.01)
        nn.init.constant_(self.bbox_pred.bias, box_bias)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """
        Args:
            features: a map (N, channels, Hi, Wi) of each level.

        Returns:
            Three lists with an entry for each level: grid features (N, Hi * Wi, conv_dims[-1]), box
            outputs (N, Hi * Wi, B), quality logits (N, Hi * Wi, 1).
        """
        outputs = super().forward(features)
        grid_features, boxes, quality = (
            [level.flatten(2).transpose(1, 2) for level in output] for output in outputs
        )
        # Half precision can't tell the pixels of a large image apart.
        return grid_features, [x.float() for x in boxes], [x.float() for x in quality]

    def deltas(self, outputs: Tensor) -> Tensor:
        """Box deltas (..., 4), in anchors, of box outputs (..., B); here B is 4, and they are the
        same."""
        return outputs


class DistributionHead(GridHead):
    """A grid head that predicts a distribution of each box delta over 0, 1, ..., K anchors.

    The delta is its mean. That is *generalized focal loss*'s regression (arXiv 2006.04388, sections
    3.2 and 3.3): where a side can't be told, the distribution is wide instead of wrong.
    """

    steps: Tensor

    def __init__(self, *, max_delta: int = 16, distribution_weight: float = 0.5, **kwargs: Any):
        """
        Args:
            max_delta: K; a side can't be further from its location.
            distribution_weight: of :meth:`distribution_loss` beside the loss of the boxes.
            kwargs: of :class:`GridHead`, except ``box_bias``: at first all deltas are K / 2.
        """
        super().__init__(box_bias=0.0, **kwargs)
        self.distribution_weight = distribution_weight
        width, outputs = kwargs["conv_dims"][-1], 4 * (max_delta + 1)
        predict = nn.Conv2d(width, outputs, kernel_size=3, padding=1)
        assert predict.bias is not None
        nn.init.normal_(predict.weight, std=0.01)
        nn.init.zeros_(predict.bias)
        self.bbox_pred = predict
        steps = torch.arange(max_delta + 1, dtype=torch.float32)
        self.register_buffer("steps", steps, persistent=False)

    def deltas(self, outputs: Tensor) -> Tensor:
        """The means (..., 4), in anchors, of logits (..., 4 * (K + 1))."""
        # No matrix product: mixed precision would round it.
        return (outputs.unflatten(-1, (4, -1)).softmax(dim=-1) * self.steps).sum(dim=-1)

    def distribution_loss(self, outputs: Tensor, deltas: Tensor) -> Tensor:
        """*Distribution focal loss*, the mean of the sides: the cross-entropy to the distribution
        over a delta's two neighbours whose mean it is.

        Args:
            outputs: (P, 4 * (K + 1)), logits.
            deltas: (P, 4), the true ones.

        Returns:
            (P,), weighted.
        """
        logits = outputs.unflatten(-1, (4, -1))
        inside = deltas.clamp(min=0, max=len(self.steps) - 1)
        targets = (1 - (self.steps - inside[..., None]).abs()).clamp(min=0)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1), reduction="none")
        return self.distribution_weight * loss.unflatten(0, (-1, 4)).mean(dim=1)
