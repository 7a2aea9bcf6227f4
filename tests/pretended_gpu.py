"""A pretended GPU: tensors that say "cuda", compute on the CPU, and refuse to meet a CPU's tensors.

On a real GPU a tensor that was left on the CPU ends the run; here the CPU finds it. Unlike those of
torch's FakeTensorMode these have values, so that all of a training's forward pass and of inference
runs. Not the backward pass: autograd's engine asks the driver.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_ATEN = torch.ops.aten
# These move values between devices, by intent.
_MOVES = {_ATEN.copy_.default, _ATEN._to_copy.default}
# Their second argument is a list of indices, which may lie on the CPU.
_INDEXING = {
    *(_ATEN.index.Tensor, _ATEN._unsafe_index.Tensor, _ATEN.index_put.default),
    *(_ATEN.index_put_.default, _ATEN._index_put_impl_.default),
}


class Pretended(torch.Tensor):
    """A tensor on the pretended GPU; ``value`` is its content, on the CPU."""

    value: torch.Tensor

    @staticmethod
    def __new__(cls, value: torch.Tensor) -> "Pretended":
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            value.size(),
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=torch.device("cuda", 0),
            requires_grad=value.requires_grad,
        )
        self.value = value.detach()
        return self

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.value})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class _Operators(TorchDispatchMode):
    """Also those that have no tensor among their arguments, such as ``torch.arange``."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """Tensors from Python's numbers and back, which ask the driver before any operator runs."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.tolist and isinstance(args[0], Pretended):
            return args[0].value.tolist()
        if function is torch.Tensor.__getitem__ and isinstance(args[1], tuple):
            index = (torch.tensor(x) if isinstance(x, list) else x for x in args[1])
            args = args[0], tuple(index)
        if function is torch.Tensor.new_tensor:
            kwargs = {"dtype": args[0].dtype, "device": args[0].device} | kwargs
            function, args = torch.tensor, args[1:]
        if function in (torch.tensor, torch.as_tensor) and _is_gpu(kwargs.get("device")):
            return Pretended(function(*args, **kwargs | {"device": "cpu"}))
        return function(*args, **kwargs)


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Within, "cuda" is the pretended GPU, on a machine without a GPU."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # .data can't change the class
    torch._C._ensureCUDADeviceGuardSet()  # as FakeTensorMode does
    try:
        with (
            patch.object(torch.cuda, "_lazy_init", lambda: None),
            torch.backends.cudnn.flags(enabled=False),
            torch.jit.optimized_execution(False),  # TorchScript would compile for the GPU
            _Operators(),
            _FromNumbers(),
        ):
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _run(function, args, kwargs):
    """Run an operator on the tensors' values; its results are where CUDA's would be."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    on_gpu = any(isinstance(x, Pretended) for x in tensors)
    _refuse_mixed(function, args, tensors)
    to_gpu = on_gpu
    if kwargs.get("device") is not None:
        to_gpu = _is_gpu(kwargs["device"])
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    args_, kwargs_ = tree_map(lambda x: x.value if isinstance(x, Pretended) else x, (args, kwargs))
    out = function(*args_, **kwargs_)
    if function._schema.name.endswith("_") and isinstance(args[0], torch.Tensor):  # in place
        return args[0]
    return (
        tree_map(lambda x: Pretended(x) if isinstance(x, torch.Tensor) else x, out)
        if (to_gpu)
        else out
    )


def _refuse_mixed(function, args, tensors) -> None:
    """Raise RuntimeError where CUDA would; scalars may lie on the CPU."""
    if function in _MOVES:
        return
    if function in _INDEXING:
        indices = [x for x in args[1] if x is not None]
        if not isinstance(args[0], Pretended) and any(isinstance(x, Pretended) for x in indices):
            raise RuntimeError(f"{function}: indices on the GPU of a tensor on the CPU")
        tensors = [x for x in (args[0], *args[2:3]) if isinstance(x, torch.Tensor)]
    if len({isinstance(x, Pretended) for x in tensors if x.dim() > 0}) > 1:
        shapes = [f"{tuple(x.shape)} on {x.device}" for x in tensors]
        raise RuntimeError(f"{function}: tensors on the CPU and on the GPU: {', '.join(shapes)}")
