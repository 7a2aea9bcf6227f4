"""int8 files of OpenVINO: what is quantized, what they find, and what is refused."""

import collections
import shutil
import sys

import numpy as np
import pytest

from gridclip.export import Form, export
from gridclip.export.formats import FORMATS
from gridclip.export.int8 import _stay_in_float32, quantize_file, shared_detections
from gridclip_runtime import Prediction, Predictor
from gridclip_runtime.engines import open_engine, openvino_core

pytest.importorskip("openvino")
pytest.importorskip("nncf")


@pytest.fixture(scope="module")
def pictures():
    noise = np.random.default_rng(0)
    return [
        noise.integers(0, 256, (12, 16, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        for _ in range(4)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory, small_detector, pictures):
    """Of one export, the float32 file before it is quantized, and the int8 one."""
    before = tmp_path_factory.mktemp("float32") / "detector.xml"
    path = tmp_path_factory.mktemp("int8") / "detector.xml"

    def keep_and_quantize(file, *args):
        copy(file, before)
        return quantize_file(file, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gridclip.export.check.SIZES", ((65, 97),))
        patch.setattr(sys.modules[export.__module__], "quantize_file", keep_and_quantize)
        found = export(small_detector, path, calibration=pictures)
    assert found.difference < 1e-4 and 0.8 <= found.shared <= 1
    assert {file.name for file in path.parent.iterdir()} == {"detector.xml", "detector.bin"}
    return before, path


@pytest.fixture(scope="module")
def int8_file(files):
    return files[1]


def copy(xml, to):
    for suffix in (".xml", ".bin"):
        shutil.copy(xml.with_suffix(suffix), to.with_suffix(suffix))


def quantized_inputs(path):
    """By type of the operation, how many have an input in int8."""
    model = openvino_core().read_model(path)
    counts = collections.Counter()
    for op in model.get_ordered_ops():
        sources = [op.input_value(i).get_node() for i in range(op.get_input_size())]
        if sources and sources[0].get_type_name() == "FakeQuantize":
            counts[op.get_type_name()] += 1
    return counts


@pytest.mark.slow
def test_convolutions_are_quantized_and_boxes_are_not(int8_file):
    model = openvino_core().read_model(int8_file)
    convolutions = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]
    counts = quantized_inputs(int8_file)
    # Of two levels, quality is predicted in float32.
    assert counts["Convolution"] == len(convolutions) - 2
    assert counts["MatMul"] == 2  # which choose locations
    assert not {"MVN", "Multiply", "Subtract", "Gather", "Exp"} & set(counts)


def test_quality_and_plain_deltas_stay_in_float32_and_distributions_do_not():
    from openvino import Model
    from openvino import opset13 as ops

    def convolution(x, channels, name):
        weight = ops.constant(np.ones((channels, 8, 1, 1), np.float32))
        zeros = [0, 0]
        found = ops.convolution(x, weight, [1, 1], zeros, zeros, [1, 1])
        found.set_friendly_name(name)
        return found

    picture = ops.parameter([1, 8, 4, 4], np.float32)
    tower = ops.relu(convolution(picture, 8, "tower"))
    last = {"quality": 1, "deltas": 4, "distributions": 68, "grid features": 16}
    outputs = [convolution(tower, channels, name) for name, channels in last.items()]
    scores = ops.sigmoid(outputs[-1])
    scores.set_friendly_name("scores")
    model = Model([*outputs, scores], [picture])
    assert set(_stay_in_float32(model)) == {"quality", "deltas", "scores"}


@pytest.mark.slow
def test_words_stay_an_input(int8_file, small_detector, pictures):
    detector = Predictor(int8_file)
    assert detector.names == small_detector.names
    detector.set_vocabulary(small_detector.names[:1])
    assert set(detector(pictures[0]).names) == {small_detector.names[0]}


@pytest.mark.slow
def test_a_file_of_any_name(files, pictures, tmp_path):
    path = tmp_path / "int8.xml"
    copy(files[0], path)
    quantize_file(path, pictures)
    assert quantized_inputs(path) == quantized_inputs(files[1])
    assert {file.name for file in tmp_path.iterdir()} == {"int8.xml", "int8.bin"}


@pytest.mark.slow
def test_what_finds_too_little_is_not_kept(files, small_detector, pictures, tmp_path, monkeypatch):
    def write(program, form, about, path):
        copy(files[0], path)

    monkeypatch.setattr("gridclip.export.check.SIZES", ((65, 97),))
    monkeypatch.setattr(sys.modules[export.__module__], "trace", lambda *_: None)
    monkeypatch.setitem(FORMATS, ".xml", (write, open_engine))
    monkeypatch.setattr("gridclip.export.int8.LEAST_SHARE", 1.01)
    with pytest.raises(ValueError, match="int8 detector finds only .* less than 101%"):
        export(small_detector, tmp_path / "detector.xml", calibration=pictures)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "form", "given"),
    [("a.onnx", Form(), 4), ("a.xml", Form(raw=True), 4), ("a.xml", Form(), 0)],
)
def test_int8_is_for_openvino_and_needs_pictures(
    name, form, given, small_detector, pictures, tmp_path
):
    with pytest.raises(ValueError, match="int8 is for OpenVINO's .xml files"):
        export(small_detector, tmp_path / name, form, pictures[:given])


def test_a_missing_picture_is_found_before_the_export(small_detector, tmp_path):
    with pytest.raises(FileNotFoundError, match="No picture at .*gone.png"):
        export(small_detector, tmp_path / "a.xml", calibration=[tmp_path / "gone.png"])


def test_shared_detections():
    def detector(boxes, classes):
        def detect(_):
            rows = np.array(boxes, np.float32).reshape(-1, 4)
            scores = np.linspace(1, 0.5, len(rows), dtype=np.float32)
            return Prediction((99, 99), rows, scores, np.array(classes), ("a", "b"))

        return detect

    first = detector([[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 10]], [0, 0, 1])
    # The same, an IoU of 1/3, another category.
    other = detector([[0, 0, 10, 10], [25, 0, 35, 10]], [0, 0])
    assert shared_detections(first, first, [None, None]) == 1
    assert shared_detections(first, other, [None]) == pytest.approx(1 / 3)
    assert shared_detections(first, other, [None], count=1) == 1
    assert shared_detections(detector([], []), other, [None]) == 1
    assert shared_detections(other, detector([], []), [None]) == 0
