"""Exported detectors in 8-bit integers, by NNCF's post-training quantization of OpenVINO models."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor

from gridclip_runtime import Prediction, Predictor
from gridclip_runtime.engines import KEY, Arrays, openvino_core
from gridclip_runtime.pictures import Picture

if TYPE_CHECKING:
    import openvino

CALIBRATION_PICTURES = 128  # more changed nothing on the laptop world
COMPARED = 20  # best detections of a picture
LEAST_SHARE = 0.8


def quantize_file(path: Path, pictures: Sequence[Picture]) -> float:
    """Replace an OpenVINO file, of words and candidates, by its int8 form.

    Args:
        path: of the ``.xml`` file; the ``.bin`` beside it is replaced, too.
        pictures: of the kind that will be detected in.

    Returns:
        The share of the float32 file's best detections that the new one finds, too.

    Raises:
        ValueError: this share is below ``LEAST_SHARE``, or a picture can't be read.
    """
    import openvino

    before = Predictor(path)
    model = openvino_core().read_model(path)
    about = model.get_rt_info(KEY).astype(str)
    # At the size that the network sees.
    quantized = quantize(model, [before.inputs_of(picture) for picture in pictures])
    quantized.set_rt_info(about, KEY)
    new = path.with_stem(f"{path.stem}_int8")  # never the file that is still mapped into memory
    openvino.save_model(quantized, new, compress_to_fp16=False)
    share = shared_detections(before, Predictor(new), pictures)
    if share < LEAST_SHARE:
        raise ValueError(
            f"The int8 detector finds only {share:.0%} of what the float32 one finds in these "
            f"pictures, less than {LEAST_SHARE:.0%}. Give pictures of the kind that it was trained "
            "on, or export it without int8. Nothing was written."
        )
    for suffix in (".bin", ".xml"):
        new.with_suffix(suffix).replace(path.with_suffix(suffix))
    return share


def quantize(model: "openvino.Model", inputs: Iterable[Arrays]) -> "openvino.Model":
    """The model with its convolutions, what lies between them, and the choice of locations in int8.

    In float32 stay group norms, the convolutions that predict quality or plain box deltas, and all
    that comes after the last convolutions, but for the choice: scores, the dense map, boxes. On
    the laptop world's development data this takes 0.05 AP of a detector; with quality in int8, too,
    it takes 0.10, and with what comes after left to NNCF 0.19.

    Args:
        inputs: of the model, by name, as it is to see them.

    Raises:
        ImportError: NNCF is not installed.
    """
    import nncf

    from .choice import round_choice

    logging.getLogger("nncf").setLevel(logging.ERROR)
    samples = list(inputs)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(samples),
        ignored_scope=nncf.IgnoredScope(
            names=_stay_in_float32(model), types=["MVN", "Multiply", "MatMul"], validate=False
        ),
    )
    round_choice(quantized)
    return quantized


def _stay_in_float32(model: "openvino.Model") -> list[str]:
    """Names of the operations after the last convolutions, and of the last convolutions with
    at most four outputs a location: quality and plain box deltas."""
    operations = model.get_ordered_ops()
    convolutions = [op for op in operations if op.get_type_name() == "Convolution"]
    before: set[str] = set()
    left = list(convolutions)
    while left:
        op = left.pop()
        for source in (op.input_value(i).get_node() for i in range(op.get_input_size())):
            if (name := source.get_friendly_name()) not in before:
                before.add(name)
                left.append(source)
    computing = [
        op
        for op in operations
        if op.get_type_name() not in ("Constant", "Parameter", "Result", "Convolution")
    ]
    last = [op for op in convolutions if op.get_friendly_name() not in before]
    channels = {op: op.output(0).get_partial_shape()[1].get_length() for op in last}
    after = [op for op in computing if op.get_friendly_name() not in before]
    few = [op for op in last if channels[op] <= 4]
    return [op.get_friendly_name() for op in after + few]


def shared_detections(
    before: Predictor, after: Predictor, pictures: Sequence[Picture], count: int = COMPARED
) -> float:
    """The share of the ``count`` best detections of ``before`` in each picture that ``after`` finds
    with the same category and an IoU of at least 0.5; 1 where there are none."""
    found = total = 0
    for picture in pictures:
        best, others = before(picture)[:count], after(picture)
        found += int(_has_counterpart(best, others).sum())
        total += len(best)
    return found / total if total else 1.0


def _has_counterpart(best: Prediction, others: Prediction) -> Tensor:
    """(N,) bool."""
    a, b = (Boxes(torch.from_numpy(x.pred_boxes)) for x in (best, others))
    same = torch.from_numpy(best.pred_classes[:, None] == others.pred_classes[None])
    return (same & (pairwise_iou(a, b) >= 0.5)).any(dim=1)
