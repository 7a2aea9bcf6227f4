"""A detector to a file for other engines, checked before it takes its place."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gridclip.modeling import ClosedSetClassifier, GridCLIP
from gridclip.predictor import Predictor
from gridclip_runtime.pictures import Picture, read_picture

from .check import check
from .description import Form, describe
from .formats import FORMATS, trace
from .graph import DetectorGraph, Words
from .int8 import quantize_file


class Exported(NamedTuple):
    """What the checks of a file found.

    Attributes:
        difference: the largest between the graph in float32 and PyTorch; see ``TOLERANCE``.
        shared: of an int8 file the share of the float32 file's best detections that it finds.
    """

    difference: float
    shared: float | None = None


def export(
    predictor: Predictor,
    path: str | os.PathLike,
    form: Form | None = None,
    calibration: Sequence[Picture] | None = None,
) -> Exported:
    """Write a detector for another engine, and compare what it finds with PyTorch.

    Args:
        predictor: of a GridCLIP on the CPU, with ``train.inference`` in float32 and not compiled.
        path: ``.onnx``, for onnxruntime and others; ``.xml``, OpenVINO's, with a ``.bin`` beside
            it; or ``.pt2``, torch.export's.
        form: what goes in and comes out; None: words in, candidates out.
        calibration: pictures of the kind that will be detected in, to compute in int8, which
            OpenVINO's files can; None: float32.

    Raises:
        FileNotFoundError: there is no such picture.
        ValueError: a picture can't be read, the detector can't be exported so, or what was written
            finds something else; then no file is left.
        ImportError: a package of requirements-export.txt is missing.
    """
    path, form = Path(path), form or Form()
    if path.suffix not in FORMATS:
        raise ValueError(f"'{path}' must end in one of {', '.join(FORMATS)}.")
    if calibration is not None:
        _check_calibration(path, form, calibration)
    _check_exportable(predictor, form)
    model, about = predictor.model, describe(predictor, form)
    graph = DetectorGraph(model, words_as_input=form.words_as_input, raw=form.raw).eval()
    write, open_file = FORMATS[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
        partial = Path(folder, path.name)
        program = trace(graph, form, Words.of(model), max(model.anchor_generator.strides))
        write(program, form, about, partial)
        difference = check(open_file(partial), predictor, form)
        shared = None if calibration is None else quantize_file(partial, calibration)
        for file in sorted(Path(folder).iterdir()):  # an .xml comes after its .bin
            shutil.move(file, path.with_name(file.name))
    return Exported(difference, shared)


def _check_calibration(path: Path, form: Form, pictures: Sequence[Picture]) -> None:
    if path.suffix != ".xml" or form.raw or not pictures:
        raise ValueError(
            "int8 is for OpenVINO's .xml files of detections, not raw scores, and needs pictures."
        )
    for picture in pictures:  # now, not after minutes
        read_picture(picture)


def _check_exportable(predictor: Predictor, form: Form) -> None:
    model, inference = predictor.model, predictor.cfg.train.inference
    if not isinstance(model, GridCLIP):
        raise ValueError(
            f"{type(model).__name__} can't be exported, not even in part: its second stage crops "
            "regions whose number depends on the picture. Only GridCLIP is one graph."
        )
    if form.words_as_input and isinstance(model.classifier, ClosedSetClassifier):
        raise ValueError(
            "This detector has learned vectors in place of words, so they can't be an input: "
            "export it with fixed words."
        )
    if predictor.cfg.train.device != "cpu":
        raise ValueError("Export needs the detector on the CPU: load it with device='cpu'.")
    if inference.dtype != "float32" or inference.compile:
        raise ValueError(
            "Export needs train.inference.dtype=float32 and train.inference.compile=False: load "
            "the detector with these overrides, from its config and weights."
        )
