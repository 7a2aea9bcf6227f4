"""Makes a trained detector faster without changing what it finds."""

import copy
import types
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeAlias, TypeGuard, TypeVar

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .clip_resnet import CLIPResNet
from .gridclip import GridCLIP

Model = TypeVar("Model", bound=nn.Module)
BatchNorm: TypeAlias = nn.BatchNorm2d | nn.SyncBatchNorm | FrozenBatchNorm2d

# These take most of a detector's time, with inputs of any size. What lies between them is short, or
# its control flow depends on the data.
_COMPILED = {
    "backbone.bottom_up",
    "head.cls_subnet",
    "head.bbox_subnet",
    "roi_heads.box_head",
    "roi_heads.image_head",
}


def optimize_for_inference(
    model: Model, *, dtype: torch.dtype = torch.float32, compile: bool = False
) -> Model:
    """A copy of a detector for inference alone, of the same class and used in the same way.

    Batch norms are folded into their convolutions, images and maps are laid out with the channels
    last, and the forward pass is in inference mode. The model itself stays as it is. The copy's
    weights are constants: neither train it nor load others into it. Threads may share it.

    Args:
        model: GridCLIP, ViLD or another detector, on its device.
        dtype: float32, or torch.bfloat16 or torch.float16 for automatic mixed precision.
        compile: compile trunk and towers with torch.compile, for any size of image. The first
            images then take minutes, and on a CPU a C++ compiler is needed.

    Returns:
        The copy, in evaluation mode. Tensors of its results are inference tensors: clone them to
        change them in place.
    """
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    _fold_batch_norms(fast)
    fast.to(memory_format=torch.channels_last)
    if isinstance(fast, GridCLIP):
        fast.keep_folded_classifier = True
    for trunk in [module for module in fast.modules() if isinstance(module, CLIPResNet)]:
        trunk.fold_dense_projection()
    if compile:
        for name, module in fast.named_modules():
            if name in _COMPILED:
                _replace_forward(module, torch.compile(type(module).forward, dynamic=True))
    set_precision(fast, dtype)
    return fast


def set_precision(fast: nn.Module, dtype: torch.dtype) -> None:
    """Let a model of :func:`optimize_for_inference` compute in another type from now on."""
    device_type = next(fast.parameters()).device.type
    _replace_forward(fast, _for_inference(type(fast).forward, device_type, dtype))
    if isinstance(fast, GridCLIP):
        score_maps = _for_inference(GridCLIP.score_maps, device_type, dtype)
        fast.score_maps = types.MethodType(score_maps, fast)  # type: ignore[method-assign]


def _for_inference(method: Callable, device_type: str, dtype: torch.dtype) -> Callable:
    def infer(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        # Contexts of each call's own: threads that share one would restore each other's state.
        mixed = nullcontext() if dtype == torch.float32 else torch.autocast(device_type, dtype)
        with torch.inference_mode(), mixed:
            return method(self, *args, **kwargs)

    return infer


def _replace_forward(module: nn.Module, forward: Callable) -> None:
    # Bound to its module, so that a copy of the module runs itself.
    module.forward = types.MethodType(forward, module)


def _fold_batch_norms(module: nn.Module) -> None:
    """Fold every batch norm, in place, into the detectron2 convolution whose ``norm`` it is, or the
    convolution registered right before it, as in CLIP's residual networks and in nn.Sequential."""
    before: nn.Module | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            if _is_batch_norm(norm := getattr(child, "norm", None)):
                _fold(child, norm)
                child.add_module("norm", None)
        elif (
            _is_batch_norm(child)
            and isinstance(before, nn.Conv2d)
            and getattr(before, "activation", None) is None
            and before.out_channels == child.num_features
        ):
            _fold(before, child)
            setattr(module, name, nn.Identity())
        else:
            _fold_batch_norms(child)
        before = child


def _is_batch_norm(module: nn.Module | None) -> TypeGuard[BatchNorm]:
    return isinstance(module, BatchNorm) and module.running_mean is not None


def _fold(conv: nn.Conv2d, norm: BatchNorm) -> None:
    # Not fuse_conv_bn_eval, which makes a new convolution: FPN also keeps its own in plain lists.
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias
    )
