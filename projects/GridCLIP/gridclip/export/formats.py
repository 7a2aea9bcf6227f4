"""The files that a graph is written to."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from gridclip_runtime.engines import KEY, Arrays, Engine, open_engine

from .description import Form
from .graph import Words


def trace(graph: nn.Module, form: Form, words: Words, stride: int) -> ExportedProgram:
    """torch.export's program, with the number of pictures, their height and width, and the number
    of words dynamic.

    Args:
        words: of the kind that the graph takes; their numbers do not matter.
        stride: of the coarsest level, in pixels.
    """
    dims: dict[str, dict[int, Any]] = {
        "images": {0: Dim("pictures"), 2: 32 * Dim("height"), 3: 32 * Dim("width")}
    }
    # Numbers of their own: what is equal, or 1, would be taken for one thing, or for constant. So
    # the coarsest level has 3 x 4 locations.
    images = torch.zeros(2, 3, 3 * stride, 4 * stride)
    given = {}
    if form.words_as_input:
        counts = {"text_embeddings": 7, "is_novel": 7, "competitors": 5}
        names = Dim("names")
        for name, x in words.given().items():
            given[name] = x.new_zeros(counts[name], *x.shape[1:])
            dims[name] = {0: Dim("competing") if name == "competitors" else names}
    with torch.enable_grad():  # without, products are convolutions: see inner_products
        program = torch.export.export(
            graph,
            (images,),
            given,
            dynamic_shapes=dims,
            # It does not see that min(k, n) <= n, and would refuse.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    # They hold what it could not prove, and some that are wrong where only one picture is given.
    nodes = program.graph_module.graph
    for node in nodes.find_nodes(op="call_function", target=torch.ops.aten._assert_scalar.default):
        nodes.erase_node(node)
    nodes.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def write_pt2(program: ExportedProgram, form: Form, about: dict, path: Path) -> None:
    torch.export.save(program, path, extra_files={f"{KEY}.json": json.dumps(about)})


def write_onnx(program: ExportedProgram, form: Form, about: dict, path: Path) -> None:
    _to_onnx(program, form, about).save(str(path), external_data=False)


def write_openvino(program: ExportedProgram, form: Form, about: dict, path: Path) -> None:
    import openvino

    between = path.with_name("between.onnx")
    write_onnx(program, form, about, between)
    model = openvino.convert_model(between)
    between.unlink()
    model.set_rt_info(json.dumps(about), KEY)
    openvino.save_model(model, path, compress_to_fp16=False)


def _to_onnx(program: ExportedProgram, form: Form, about: dict) -> torch.onnx.ONNXProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx = torch.onnx.export(
            program,
            input_names=about["inputs"],
            output_names=form.outputs,
            dynamo=True,
            verbose=False,
        )
    assert onnx is not None
    onnx.model.metadata_props[KEY] = json.dumps(about)
    return onnx


class Program:
    """A ``.pt2`` file, run by PyTorch."""

    def __init__(self, path: Path, threads: int | None = None):
        files = {f"{KEY}.json": ""}
        # Its guards say that names compete, though it computes the same where none do.
        self._module = torch.export.load(path, extra_files=files).module(check_guards=False)
        self.description = json.loads(files[f"{KEY}.json"])

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        images, *words = (torch.from_numpy(inputs[name]) for name in self.description["inputs"])
        names = self.description["inputs"][1:]
        with torch.no_grad():
            found = self._module(images, **dict(zip(names, words, strict=True)))
        return dict(zip(("boxes", "scores", "classes"), (x.numpy() for x in found), strict=False))


Write = Callable[[ExportedProgram, Form, dict, Path], None]
Open = Callable[[Path], Engine]
FORMATS: dict[str, tuple[Write, Open]] = {
    ".onnx": (write_onnx, open_engine),
    ".xml": (write_openvino, open_engine),
    ".pt2": (write_pt2, Program),
}
