"""Upper bounds of inner products from those of 8-bit integers, which a CPU may have four times as
fast."""

import torch
from torch import Tensor

_FEWEST = 8192  # weights: with fewer, the float32 products take no longer
BLOCK = 16  # weights that have one bound
_LARGEST = 127
_CHUNK = 1024  # weights at a time
_ROWS = 1600  # features at a time: their products with a chunk of weights stay in a cache
_LOOKUPS = 128  # blocks at a time
_ROUNDING = 1e-5  # more than that of float32 sums


class RoundedProducts:
    """Bounds of the inner products with many weights, and the products themselves where asked for.

    Features x and weights w (less their mean) are rounded to x' and w'. Then x.w is at most
    x'.w' + |x'| |w - w'| + |x - x'| |w|. Block b of B has the weights b, b + B, b + 2 B and so on.
    """

    def __init__(self, weight: Tensor):
        """
        Args:
            weight: (K, F) float32, F at least 2: of single numbers ``torch._int_mm`` is wrong.
        """
        self.weight = weight
        count = -(-len(weight) // BLOCK)
        # The last weight fills the blocks up.
        self._members = torch.arange(BLOCK * count, device=weight.device).clamp(max=len(weight) - 1)
        self._members = self._members.view(BLOCK, count)
        self._mean = weight.mean(dim=0)
        centered = weight - self._mean
        self._step = _step(centered.abs().max())
        rounded = (centered / self._step).round()
        self._length = centered.norm(dim=1).max()
        self._error = (centered - rounded * self._step).norm(dim=1).max()
        self._chunks = [
            rounded[members.flatten()].to(torch.int8).T
            for members in self._members.split(_CHUNK // BLOCK, dim=1)
        ]

    @staticmethod
    def pays(weight: Tensor) -> bool:
        """Whether this processor multiplies such integers fast, and there are enough weights.

        Without VNNI, sums of products could also exceed 16 bits.
        """
        return (
            weight.device.type == "cpu"
            and not torch.is_grad_enabled()
            and not torch.jit.is_tracing()  # which has no form of these products
            and len(weight) >= _FEWEST
            and weight.shape[1] > 1
            and torch.backends.mkldnn.is_available()
            and torch.cpu._is_vnni_supported()
        )

    def bounds(self, features: Tensor) -> Tensor:
        """At least the largest product of a block: (R, B), of features (R, F) float32."""
        steps = _step(features.abs().amax(dim=1, keepdim=True))
        rounded = (features / steps).round()
        near = rounded * steps
        length = near.norm(dim=1, keepdim=True)
        slack = length * self._error + (features - near).norm(dim=1, keepdim=True) * self._length
        slack += _ROUNDING * length * (self._length + self._mean.norm())
        slack += (features @ self._mean)[:, None]
        bounds = features.new_empty(len(features), self._members.shape[1])
        parts = (
            x.split(_ROWS) for x in (rounded.to(torch.int8), steps * self._step, slack, bounds)
        )
        for integers, scale, more, out in zip(*parts, strict=True):
            torch.mul(self._best(integers), scale, out=out).add_(more)
        return bounds

    def _best(self, integers: Tensor) -> Tensor:
        """The largest product of a block: (R, B) int32."""
        space = integers.new_empty(len(integers) * _CHUNK, dtype=torch.int32)
        best = []
        for weights in self._chunks:
            products = space[: len(integers) * weights.shape[1]].view(len(integers), -1)
            torch._int_mm(integers, weights, out=products)
            best.append(products.unflatten(1, (BLOCK, -1)).amax(dim=1))
        return torch.cat(best, dim=1)

    def largest(self, features: Tensor, blocks: Tensor) -> Tensor:
        """The largest product of a feature with a block's weights.

        Args:
            features: (n, F) float32.
            blocks: (n,) int64.

        Returns:
            (n,) float32.
        """
        parts = zip(features.split(_LOOKUPS), self._members.T[blocks].split(_LOOKUPS), strict=True)
        return torch.cat(
            [
                torch.bmm(self.weight[members.flatten()].unflatten(0, members.shape), x[:, :, None])
                for x, members in parts
            ]
        ).amax(dim=(1, 2))


def _step(largest: Tensor) -> Tensor:
    return (largest / _LARGEST).clamp(min=1e-30)
