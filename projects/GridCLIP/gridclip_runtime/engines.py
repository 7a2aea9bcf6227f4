"""The engines that run an exported graph."""

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import openvino

FORMAT = "gridclip export 1"
KEY = "gridclip"  # of the description, in ONNX's metadata and OpenVINO's rt_info

Arrays = Mapping[str, np.ndarray]


class Engine(Protocol):
    """An opened file.

    Attributes:
        description: what the file says of its names, sizes and preprocessing.
    """

    description: dict[str, Any]

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """The outputs by name. Several threads may call it at once."""
        ...


class OnnxRuntime:
    """onnxruntime, of an ``.onnx`` file."""

    def __init__(
        self, path: Path, threads: int | None = None, providers: Sequence[str] | None = None
    ):
        import onnxruntime

        providers = list(dict.fromkeys([*(providers or ()), "CPUExecutionProvider"]))
        there = onnxruntime.get_available_providers()
        if missing := [provider for provider in providers if provider not in there]:
            raise ValueError(
                f"This onnxruntime has no {missing[0]}, only {', '.join(there)}: install the build "
                "that has it, such as onnxruntime-gpu."
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0  # 0: as many as there are cores
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(path, options, providers=providers)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.description = parse_description(metadata.get(KEY, "null"), path)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(None, dict(inputs)), strict=True))


@functools.cache
def openvino_core() -> "openvino.Core":
    """The one of this process.

    Where several come and go in another order than last in, first out, OpenVINO leaves the process
    with a stack for signals that is gone, and the next signal that Python handles (Ctrl-C, the end
    of a DataLoader's worker) is a segmentation fault.
    """
    import openvino

    return openvino.Core()


class OpenVINO:
    """OpenVINO, of an ``.xml`` file with its ``.bin`` beside it."""

    def __init__(self, path: Path, threads: int | None = None):
        core = openvino_core()
        if not (weights := path.with_suffix(".bin")).is_file():
            raise FileNotFoundError(f"{weights} is missing, which export wrote beside {path.name}.")
        model = core.read_model(path)
        text = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else "null"
        self.description = parse_description(text, path)
        # By itself it takes bfloat16 where the processor has it.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        self._model = core.compile_model(model, "CPU", settings)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        found = self._model.create_infer_request().infer(dict(inputs))
        return {output.get_any_name(): array for output, array in found.items()}


def open_engine(
    path: str | os.PathLike,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
) -> Engine:
    """Raises FileNotFoundError, or ValueError if it is no exported detector, or a provider is not
    there."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No exported detector at {path}.")
    if path.suffix == ".onnx":
        return OnnxRuntime(path, threads, providers)
    if path.suffix != ".xml":
        raise ValueError(f"{path} is neither an .onnx nor an .xml file, as gridclip export writes.")
    if providers:
        raise ValueError(f"providers are onnxruntime's, of .onnx files, and {path} is OpenVINO's.")
    return OpenVINO(path, threads)


def parse_description(text: str, path: Path) -> dict[str, Any]:
    """Raises ValueError if it is not of an exported detector of this version."""
    description = json.loads(text) or {}
    found = description.get("format")
    if found != FORMAT:
        raise ValueError(
            f"{path} was not written by gridclip export: its format is '{found or 'not stated'}', "
            f"not '{FORMAT}'."
        )
    return description
