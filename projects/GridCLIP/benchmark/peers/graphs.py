"""Networks as OpenVINO's graphs, in float32 and in eight bits."""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gridclip_runtime.engines import openvino_core


def to_openvino(module: nn.Module, example: Tensor, shape: list[int] | None = None) -> Any:
    """An ``openvino.Model`` by tracing.

    Args:
        module: of one tensor; its weights need no gradient.
        example: its input.
        shape: of the graph's input, with -1 for any; None: that of ``example``.
    """
    import openvino

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: what is constant here is meant to be
        return openvino.convert_model(
            module, example_input=example, input=shape or list(example.shape)
        )


def quantize(model: Any, inputs: Iterable[np.ndarray], *, transformer: bool = False) -> Any:
    """Weights and activations of eight bits, by NNCF's post-training quantisation.

    Args:
        model: an ``openvino.Model`` of one input.
        inputs: what it takes.
        transformer: its layers are a transformer's, which NNCF then treats in their own way.
    """
    import nncf

    given = list(inputs)
    return nncf.quantize(
        model,
        nncf.Dataset(given),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(given),
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
    )


class Compiled:
    """A graph that OpenVINO runs on the CPU in at least 32 bits where it is not quantised."""

    def __init__(self, model: Any):
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # by itself it takes bfloat16
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        compiled = openvino_core().compile_model(model, "CPU", settings)
        self._request = compiled.create_infer_request()

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """The outputs. The next call writes over them."""
        self._request.infer(x.contiguous().numpy(), share_inputs=True)
        return tuple(torch.from_numpy(output.data) for output in self._request.output_tensors)
