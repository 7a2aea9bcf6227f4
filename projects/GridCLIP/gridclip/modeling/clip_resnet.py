"""CLIP's ResNet image encoder as a detectron2 backbone."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from clip.model import ModifiedResNet
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import FPN, Backbone
from torch import Tensor, nn
from torch.func import functional_call

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class CLIPResNet(ModifiedResNet, Backbone):
    """``clip.model.ModifiedResNet`` that returns the feature maps of its stages.

    Parameters keep CLIP's own names, so the image encoder of a CLIP checkpoint loads as it is.
    Input is RGB, normalised by CLIP's mean and standard deviation.
    """

    def __init__(
        self,
        *,
        layers: tuple[int, int, int, int],
        width: int,
        embed_dim: int,
        input_resolution: int = 224,
        out_features: tuple[str, ...] = ("res2", "res3", "res4", "res5"),
        freeze_at: int = 0,
        freeze_norm: bool = True,
    ):
        """
        Args:
            layers: blocks in each of the four stages.
            width: channels of the stem's output; the stages have 4, 8, 16, 32 times as many.
            embed_dim: D, the width of CLIP's joint space.
            input_resolution: CLIP's native input side in pixels; sets the size of the attention
                pool's positional embedding.
            out_features: which of res2 to res5 the forward pass returns.
            freeze_at: stages to freeze, as in detectron2's ResNet: 1 the stem, 2 also res2, and
                so on up to 5.
            freeze_norm: use the batch norms' stored statistics and affine parameters as constants;
                those of frozen stages always are.
        """
        # CLIP has one attention head per 64 channels.
        super().__init__(tuple(layers), embed_dim, width * 32 // 64, input_resolution, width)
        self.embed_dim = embed_dim
        self._out_features = tuple(out_features)
        self._channels = {name: width * stride for name, stride in STRIDES.items()}
        frozen = set(itertools.chain(*self._stages()[:freeze_at]))
        for name, module in list(self.named_children()):
            if module in frozen:
                module.requires_grad_(False)
                setattr(self, name, FrozenBatchNorm2d.convert_frozen_batchnorm(module))
        # The attention pool defines CLIP's joint space: gradients pass through it, it stays.
        self.attnpool.requires_grad_(False)
        self._dense_projection: nn.Conv2d | None = None
        if freeze_norm:
            FrozenBatchNorm2d.convert_frozen_batchnorm(self)

    @property
    def size_divisibility(self) -> int:
        return STRIDES["res5"]

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=self._channels[name], stride=STRIDES[name])
            for name in self._out_features
        }

    def forward(self, x: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
        """
        Args:
            x: (N, 3, H, W) normalised RGB images; or the maps themselves, which are handed on: so
                detectron2's FPN, which asks its trunk for them, takes maps that are there.

        Returns:
            ``out_features`` to maps of (N, channels, H / stride, W / stride), rounded as CLIP
            rounds: H / 2 up by the first convolution, the rest down by average pools.
        """
        if isinstance(x, dict):
            return x
        stem, *stages = self._stages()
        for module in stem:
            x = module(x)
        features = {}
        for name, stage in zip(STRIDES, stages, strict=True):
            for module in stage:
                x = module(x)
            features[name] = x
        return {name: features[name] for name in self._out_features}

    def image_embedding(self, res5: Tensor) -> Tensor:
        """CLIP's pooled image embedding.

        Args:
            res5: (N, 32 * width, H, W).

        Returns:
            (N, D), not normalised. At the native input resolution this is what CLIP's
            ``encode_image`` gives; elsewhere the positional embedding is resized to H x W.
        """
        positions = _resize_positions(self.attnpool.positional_embedding, res5.shape[-2:])
        return functional_call(self.attnpool, {"positional_embedding": positions}, (res5,))

    def dense_embeddings(self, res5: Tensor) -> Tensor:
        """The attention pool's value path at every location: in CLIP's space before any training.

        Args:
            res5: (N, 32 * width, H, W).

        Returns:
            (N, D, H, W), not normalised.
        """
        if self._dense_projection is not None:
            return self._dense_projection(res5)
        values = self.attnpool.c_proj(self.attnpool.v_proj(res5.permute(0, 2, 3, 1)))
        return values.permute(0, 3, 1, 2)

    @torch.no_grad()
    def fold_dense_projection(self) -> None:
        """Make one convolution of both matrices of :meth:`dense_embeddings`, a third of the work.

        For inference alone: the weights have to stay as they are.
        """
        value, project = self.attnpool.v_proj, self.attnpool.c_proj
        folded = nn.Conv2d(value.in_features, project.out_features, 1)
        folded.weight = nn.Parameter((project.weight @ value.weight)[:, :, None, None])
        folded.bias = nn.Parameter(project(value.bias))
        self._dense_projection = folded.requires_grad_(False)

    def _stages(self) -> list[list[nn.Module]]:
        stem = [
            *(self.conv1, self.bn1, self.relu1),
            *(self.conv2, self.bn2, self.relu2),
            *(self.conv3, self.bn3, self.relu3),
            self.avgpool,
        ]
        return [stem, [self.layer1], [self.layer2], [self.layer3], [self.layer4]]


def _resize_positions(positions: Tensor, size: Sequence[int]) -> Tensor:
    """Resize the positional embedding (1 + S * S, channels) to (1 + H * W, channels)."""
    side = round((len(positions) - 1) ** 0.5)
    if tuple(size) == (side, side):
        return positions
    grid = positions[1:].T.reshape(1, -1, side, side)
    grid = F.interpolate(grid, size=tuple(size), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], grid.flatten(2)[0].T])


class CLIPFPN(FPN):
    """detectron2's FPN that also returns the map it was built on, ``res5``, for CLIP's pool."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Args:
            x: (N, 3, H, W), H and W multiples of 32.

        Returns:
            ``p3`` to ``p7`` as detectron2's FPN, and ``res5``.
        """
        maps = self.bottom_up(x)
        return {**super().forward(maps), "res5": maps["res5"]}
