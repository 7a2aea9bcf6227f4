"""Post-training quantisation of an exported graph to eight bits."""

from collections.abc import Iterable

import numpy as np
import openvino


def quantize(model: openvino.Model, inputs: Iterable[dict[str, np.ndarray]]) -> openvino.Model:
    """A copy with weights and activations of eight bits.

    Args:
        model: as ``gridclip.export`` writes it.
        inputs: what the graph takes, by name, for a few pictures.

    Raises:
        ImportError: nncf is missing.
    """
    import nncf

    given = list(inputs)
    return nncf.quantize(
        model,
        nncf.Dataset(given),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(given),
    )
