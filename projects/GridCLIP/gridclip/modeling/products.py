"""Inner products of many vectors with many others."""

import torch
import torch.nn.functional as F
from torch import Tensor


def inner_products(features: Tensor, weight: Tensor) -> Tensor:
    """``torch.nn.functional.linear`` without bias; on a CPU, outside of autograd, a convolution.

    PyTorch's matrix products come from a BLAS. On some processors it takes two to three times as
    long as oneDNN's 1 x 1 convolution of the same numbers; on others they are equally fast.

    Args:
        features: (..., F) float.
        weight: (K, F), of the same type.

    Returns:
        (..., K).
    """
    if features.device.type != "cpu" or torch.is_grad_enabled() or not features.numel():
        return F.linear(features, weight)
    row = features.reshape(1, 1, -1, features.shape[-1])  # a picture of one row, channels last
    products = F.conv2d(row.permute(0, 3, 1, 2), weight[:, :, None, None])
    return products.permute(0, 2, 3, 1).reshape(*features.shape[:-1], weight.shape[0])
