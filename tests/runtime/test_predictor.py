"""The runtime finds what gridclip's Predictor finds."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from PIL import Image

from demo_root import root, run_page  # noqa: F401 (a fixture)
from gridclip.export import Form, export
from gridclip.export.description import describe
from gridclip.text import TextEmbeddings
from gridclip_runtime import Predictor
from gridclip_runtime.engines import open_engine
from gridclip_runtime.vocabulary import Vocabulary
from pages import ROOT

PROJECT = ROOT / "projects/GridCLIP"


# Exporting takes half a minute.
pytestmark = pytest.mark.slow


@pytest.fixture
def runtime(onnx_file):
    return Predictor(onnx_file, threads=1)


@pytest.fixture(scope="module")
def pictures(world):
    """Of the network's size, larger, and a file."""
    first = Image.open(world / "train2017/1.png")
    return [first, np.asarray(first.resize((201, 150))), str(world / "train2017/2.png")]


def assert_same(found, expected):
    """Same detections; those of equal scores may be in another order."""
    assert found.image_size == expected.image_size and len(found) == len(expected) > 0
    np.testing.assert_allclose(found.scores, expected.scores.numpy(), atol=1e-4)
    rows = np.concatenate(
        [expected.pred_boxes.tensor.numpy(), expected.scores.numpy()[:, None]], axis=1
    )
    for name, score, box in zip(found.names, found.scores, found.pred_boxes, strict=True):
        distances = np.abs(rows - [*box, score]).max(axis=1)
        near = [expected.names[i] for i in np.flatnonzero(distances < 0.01)]
        assert name in near


def test_onnx_says_what_it_holds(onnx_file, small_detector):
    about = open_engine(onnx_file).description
    assert about["inputs"] == ["images", "text_embeddings", "competitors", "is_novel"]
    assert tuple(about["vocabulary"]["names"]) == small_detector.names
    assert about["training_vocabulary"] is None  # the same
    assert set(about["base_names"]) == small_detector.base_names == {"red thing", "green thing"}
    assert about["weighed_as_base"] == ["green thing", "red thing"]
    assert about["limits"] == {"threshold": 0.0, "nms": 0.6, "max_detections": 300}
    assert about["resize"] == [96, 1333] and about["multiple"] == 32
    assert list(onnx_file.parent.iterdir()) == [onnx_file]


def test_detections_are_the_predictors(runtime, small_detector, pictures):
    assert runtime.names == small_detector.names
    several = runtime(pictures)
    for picture, found in zip(pictures, several, strict=True):
        expected = small_detector(picture)
        assert_same(found, expected)
        assert found.source == expected.source and found.vocabulary == expected.vocabulary
        assert found.novel == expected.novel
    limits = dict(threshold=0.3, nms=0.3, max_detections=7)
    assert_same(runtime(pictures[1], **limits), small_detector(pictures[1], **limits))


@pytest.mark.parametrize(
    "names", [["red thing"], ["blue thing", "red thing"], ["dog", "green thing"]], ids=str
)
def test_so_they_are_after_a_change_of_words(names, runtime, small_detector, pictures, tmp_path):
    predictor = small_detector.with_vocabulary(names)
    predictor.model.classifier.vocabulary.save(tmp_path / "text.safetensors")
    runtime.set_vocabulary(tmp_path / "text.safetensors")
    assert runtime.names == tuple(names)
    for picture in pictures:
        found = runtime(picture)
        assert_same(found, predictor(picture))
        assert found.novel == predictor(picture).novel
    if "dog" not in names:  # the file holds them all
        runtime.set_vocabulary(["green thing"])
        runtime.set_vocabulary(names)
        assert_same(runtime(pictures[0]), predictor(pictures[0]))


def test_refused_words_leave_the_old_ones(runtime, tmp_path):
    with pytest.raises(ValueError, match="no text embedding of 'dog' \\(1 of 2 names\\)"):
        runtime.set_vocabulary(["red thing", "dog"])
    with pytest.raises(ValueError, match="are 16 wide"):
        runtime.set_vocabulary(Vocabulary(("a",), np.eye(1, 16, dtype=np.float32)))
    with pytest.raises(ValueError, match="of CLIP model 12345678; the detector needs 32"):
        runtime.set_vocabulary(Vocabulary(("a",), np.eye(1, 32, dtype=np.float32), "123456789"))
    assert runtime.names == ("red thing", "green thing", "blue thing")


@pytest.mark.parametrize("limits", [{"threshold": 2}, {"nms": -1}, {"max_detections": 0}], ids=str)
def test_limits_out_of_range(limits, runtime, pictures):
    with pytest.raises(ValueError, match="take numbers from 0 to 1"):
        runtime(pictures[0], **limits)


def test_other_files_are_refused(onnx_file, tmp_path):
    with pytest.raises(FileNotFoundError, match="No exported detector at gone.onnx"):
        Predictor("gone.onnx")
    (tmp_path / "detector.pth").touch()
    with pytest.raises(ValueError, match="neither an .onnx nor an .xml file"):
        Predictor(tmp_path / "detector.pth")
    model = onnx.load(onnx_file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="was not written by gridclip export"):
        Predictor(tmp_path / "other.onnx")


def test_providers_of_onnxruntime(onnx_file, runtime, pictures, tmp_path, monkeypatch):
    wanted = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: wanted[1:])
    with pytest.raises(ValueError, match="has no TensorrtExecutionProvider, only CPUExecution"):
        Predictor(onnx_file, providers=wanted[:1])
    same = Predictor(onnx_file, threads=1, providers=wanted[1:])(pictures[0])
    np.testing.assert_array_equal(same.scores, runtime(pictures[0]).scores)
    (tmp_path / "a.xml").touch()
    with pytest.raises(ValueError, match="providers are onnxruntime's"):
        Predictor(tmp_path / "a.xml", providers=wanted)


def test_openvino_with_fixed_words(small_detector, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("gridclip.export.check.SIZES", ((65, 203), (129, 97)))
    predictor, form = small_detector.with_vocabulary(["blue thing", "kite"]), Form(False)
    path = tmp_path / "new/detector.xml"
    assert export(predictor, path, form).difference < 1e-4
    assert {file.name for file in path.parent.iterdir()} == {"detector.xml", "detector.bin"}
    assert open_engine(path).description == describe(predictor, form)
    runtime = Predictor(path, threads=1)
    for picture in pictures:
        assert_same(runtime(picture), predictor(picture))
    with pytest.raises(ValueError, match="without --fixed-words"):
        runtime.set_vocabulary(["kite"])
    path.with_suffix(".bin").unlink()
    with pytest.raises(FileNotFoundError, match="detector.bin is missing"):
        Predictor(path)


@pytest.mark.usefixtures("root")
def test_the_page_of_exports(onnx_file):
    """Its commands are only parsed: exporting takes long."""
    shutil.copy(onnx_file, "detector.onnx")
    TextEmbeddings.random(["shoe", "cone"], 32).save("words.safetensors")
    namespace = run_page(ROOT / "docs/export.md")
    assert namespace["predictor"].names == ("shoe", "cone")
    assert [len(found) > 0 for found in namespace["several"]] == [True, True]


WITHOUT_TORCH = """
import json, sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED:
            raise ImportError(f"{name} is not there")


ALLOWED = {*sys.stdlib_module_names, "gridclip_runtime", "numpy", "PIL", "onnxruntime"}
sys.meta_path.insert(0, Refuse())
from gridclip_runtime import Predictor

runtime = Predictor(sys.argv[1], threads=1)
runtime.set_vocabulary(sys.argv[2])
print(json.dumps(runtime(sys.argv[3]).to_dicts()))
"""


def test_needs_neither_torch_nor_gridclip(onnx_file, runtime, pictures, tmp_path):
    """Nothing but numpy, Pillow and onnxruntime can be imported."""
    TextEmbeddings.random(["dog", "cat"], 32).save(tmp_path / "text.safetensors")
    command = [sys.executable, "-c", WITHOUT_TORCH, onnx_file, tmp_path / "text.safetensors"]
    done = subprocess.run(
        [*command, pictures[2]],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(PROJECT)},
    )
    assert done.returncode == 0, done.stderr
    runtime.set_vocabulary(tmp_path / "text.safetensors")
    found = runtime(pictures[2]).to_dicts()
    assert json.loads(done.stdout) == found and len(found) > 10
