"""A detector of another library: a network, and what makes detections of its outputs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from gridclip.modeling import optimize_for_inference

from .detect import INT8, OPENVINO, PYTORCH, Detect, Found, Scene
from .graphs import Compiled, quantize, to_openvino


@dataclass(frozen=True)
class Network:
    """
    Attributes:
        module: from (1, 3, H, W) float32 RGB, 0 to 255, to a tensor or a tuple of tensors; scaling
            of the pixels is a part of it.
        finish: the library's own post-processing, of the outputs and the picture's (H, W).
        transformer: see ``graphs.quantize``.
    """

    module: nn.Module
    finish: Callable[[tuple[Tensor, ...], tuple[int, int]], Found]
    transformer: bool = False


class NetworkForms:
    """A network in its forms; see ``Ready``. All of them have the same post-processing."""

    def __init__(self, network: Network, scene: Scene):
        self.network, self.scene = network, scene
        network.module.eval().requires_grad_(False)
        self.parameters = sum(p.numel() for p in network.module.parameters())
        self.gmac = multiply_adds(network.module, _input(scene.pictures[0])) / 1e9

    def open(self, form: str) -> Detect:
        run: Callable[[Tensor], Any]
        if form == PYTORCH:
            run = optimize_for_inference(self.network.module)
        elif form == OPENVINO:
            run = Compiled(self._graph)
        elif form == INT8:
            inputs = (_input(x).numpy() for x in self.scene.pictures)
            run = Compiled(quantize(self._graph, inputs, transformer=self.network.transformer))
        else:
            raise ValueError(f"A network has no form '{form}'.")
        finish = self.network.finish

        @torch.no_grad()
        def detect(picture: Tensor) -> Found:
            outputs = run(_input(picture))
            outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
            return finish(outputs, (picture.shape[1], picture.shape[2]))

        return detect

    @cached_property
    def _graph(self) -> Any:
        return to_openvino(self.network.module, _input(self.scene.pictures[0]))


def _input(picture: Tensor) -> Tensor:
    return picture[None].float()


@torch.no_grad()
def multiply_adds(module: nn.Module, x: Tensor) -> int:
    """As fvcore counts them, and of attention, which it does not know."""
    count = FlopCountAnalysis(module, x)
    count.set_op_handle("aten::scaled_dot_product_attention", _attention)
    count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    return int(count.total())


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """Of queries (..., L, E), keys (..., S, E) and values (..., S, V)."""
    query, key, value = (x.type().sizes() for x in inputs[:3])
    heads = 1
    for size in query[:-2]:
        heads *= size
    return heads * query[-2] * key[-2] * (query[-1] + value[-1])
