"""The choice of locations in 8-bit integers, in an OpenVINO model."""

import numpy as np
import openvino
from openvino import opset13 as ops


def round_choice(model: openvino.Model) -> None:
    """The products with the grid features of all locations in int8: they choose locations, which
    are then scored in float32.

    Features of a location, and all weights, are scaled to at most 1, and what comes of the products
    is scaled back. NNCF would fix the ranges that it has seen, and words come later.
    """
    features = _grid_features(model)
    by_location = _largest(features, -1)
    rounded = _in_steps(ops.divide(features, by_location), 0)  # they come from a ReLU
    for target in features.get_target_inputs():
        if (products := target.get_node()).get_type_name() != "MatMul":
            continue
        weight = products.input_value(1)
        by_weight = _largest(weight, 0, 1)
        integers = _in_steps(ops.divide(weight, by_weight), -128 / 127)
        (reader,) = products.output(0).get_target_inputs()
        reader.replace_source_output(ops.matmul(rounded, integers, False, True).output(0))
        found = reader.get_node().output(0)  # the largest of a location, or the length
        readers = found.get_target_inputs()
        scaled = ops.multiply(ops.multiply(found, by_location), by_weight)
        for reader in readers:
            reader.replace_source_output(scaled.output(0))


def _grid_features(model: openvino.Model) -> openvino.Output:
    """The grid features of all locations: what is multiplied with the words before the largest
    product is taken."""
    (products,) = (
        source
        for op in model.get_ordered_ops()
        if op.get_type_name() == "ReduceMax"
        and (source := op.input_value(0).get_node()).get_type_name() == "MatMul"
    )
    return products.input_value(0)


def _largest(x: openvino.Output, *axes: int) -> openvino.Node:
    """The largest absolute value along the axes, which stay; never 0."""
    largest = ops.reduce_max(ops.abs(x), ops.constant(list(axes)), keep_dims=True)
    return ops.maximum(largest, ops.constant(np.float32(1e-30)))


def _in_steps(x: openvino.Node, least: float) -> openvino.Node:
    """In 256 steps from the least number to 1."""
    low, high = (ops.constant(np.float32(limit)) for limit in (least, 1))
    return ops.fake_quantize(x, low, high, low, high, 256)
