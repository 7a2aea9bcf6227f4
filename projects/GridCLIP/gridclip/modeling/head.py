"""The dense head: FCOS towers, one of which ends in an embedding instead of class scores."""

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
            deltas (N, Hi * Wi, 4), quality logits (N, Hi * Wi, 1).
        """
        outputs = super().forward(features)
        grid_features, deltas, quality = (
            [level.flatten(2).transpose(1, 2) for level in output] for output in outputs
        )
        # Half precision can't tell the pixels of a large image apart.
        return grid_features, [x.float() for x in deltas], [x.float() for x in quality]
