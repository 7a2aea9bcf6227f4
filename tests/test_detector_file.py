import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import save_file

from gridclip.detector_file import DetectorFile
from gridclip.predictor import Predictor
from gridclip.text import TextEmbeddings
from test_predictor import TRAINED, folder, make_config, picture, same  # noqa: F401


@pytest.fixture(scope="module")
def predictor(folder):  # noqa: F811
    return Predictor(make_config(folder), folder / "detector.pth")


@pytest.fixture
def saved(predictor, tmp_path):
    predictor.save(tmp_path / "detector.safetensors")
    return tmp_path / "detector.safetensors"


def test_detections_are_the_same_bit_for_bit(predictor, saved, picture):  # noqa: F811
    loaded = Predictor.load(saved)
    assert loaded.names == predictor.names
    assert len(predictor(picture)) > 10 and same(loaded(picture), predictor(picture))


def test_with_other_names_too(predictor, picture, tmp_path):  # noqa: F811
    before = predictor._state
    try:
        predictor.set_vocabulary(["red shoe", "cat"])
        predictor.save(tmp_path / "words.safetensors")
        expected = predictor(picture)
    finally:
        predictor._state = before
    loaded = Predictor.load(tmp_path / "words.safetensors")
    assert loaded.names == ("red shoe", "cat") and same(loaded(picture), expected)
    # The training vocabulary is in the file too: its names compete, and may come back.
    loaded.set_vocabulary(loaded.model.classifier.training_vocabulary)
    assert same(loaded(picture), predictor(picture))


def test_neither_config_nor_clip_is_needed(folder, predictor, saved, picture, tmp_path):  # noqa: F811
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    cfg = make_config(moved)
    Predictor(cfg, moved / "detector.pth").save(tmp_path / "moved.safetensors")
    shutil.rmtree(moved)
    loaded = Predictor.load(tmp_path / "moved.safetensors")
    assert same(loaded(picture), predictor(picture))
    with pytest.raises(FileNotFoundError, match=r"tiny\.pt.*clip= of Predictor\.load"):
        loaded.set_vocabulary(["red shoe"])
    assert loaded.names == TRAINED
    expected = Predictor(make_config(folder), folder / "detector.pth", vocabulary=["red shoe"])
    loaded = Predictor.load(tmp_path / "moved.safetensors", clip=folder / "tiny.pt")
    loaded.set_vocabulary(["red shoe"])
    assert same(loaded(picture), expected(picture))


def test_clip_may_be_inside(folder, predictor, picture, tmp_path):  # noqa: F811
    path = tmp_path / "whole.safetensors"
    predictor.save(path, with_clip=True)
    os.rename(folder / "tiny.pt", folder / "hidden.pt")
    try:
        loaded = Predictor.load(path)
        loaded.set_vocabulary({"shoe": ["red shoe", (picture, (20, 10, 70, 60))]})
    finally:
        os.rename(folder / "hidden.pt", folder / "tiny.pt")
    queries = {"shoe": ["red shoe", (picture, (20, 10, 70, 60))]}
    expected = Predictor(make_config(folder), folder / "detector.pth", vocabulary=queries)
    assert same(loaded(picture), expected(picture))
    # Saved once more, from the file alone.
    loaded.save(tmp_path / "again.safetensors", with_clip=True)
    assert same(Predictor.load(tmp_path / "again.safetensors")(picture), expected(picture))


def test_another_clip_is_refused(folder, saved):  # noqa: F811
    loaded = Predictor.load(saved, clip=folder / "other.pt")
    with pytest.raises(ValueError, match="of CLIP model other .* of tiny"):
        loaded.set_vocabulary(["red shoe"])


def rewrite(path, change):
    """Change metadata and tensors of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    change(metadata, tensors)
    save_file(tensors, path, metadata)


def set_target(where, target):
    def change(metadata, tensors):
        settings = json.loads(metadata["settings"])
        node = settings
        for key in where:
            node = node[key]
        node["_target_"] = target
        metadata["settings"] = json.dumps(settings)

    return change


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "gridclip.files.os.system",
        "gridclip.modeling.gridclip.os.system",
        "gridclip.modeling.torch.load",
        "gridclip.clip_weights.load_clip",
        "detectron2.modeling.build_model",
        "torch.nn.modules.utils.os.system",
        "gridclip.modeling.no_such_class",
        {"_target_": "os.system"},
        7,
    ],
)
@pytest.mark.parametrize("where", [["model"], ["model", "head"], ["model", "classifier"]])
def test_a_file_can_name_nothing_but_parts_of_a_detector(saved, where, target, monkeypatch):
    monkeypatch.setattr(os, "system", lambda *args, **kwargs: pytest.fail("code was run"))
    rewrite(saved, set_target(where, target))
    with pytest.raises(ValueError, match="no part of a detector"):
        Predictor.load(saved)


def drop(key):
    def change(metadata, tensors):
        (metadata if key in metadata else tensors).pop(key)

    return change


def misshape(metadata, tensors):
    tensors["detector.head.bbox_pred.bias"] = torch.zeros(5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("format"), "no detector in one file.*'not stated'"),
        (drop("settings"), "damaged"),
        (drop("training_vocabulary"), "damaged"),
        (drop("detector.head.bbox_pred.bias"), "bbox_pred.bias the file has nothing"),
        (misshape, r"bbox_pred.bias the file has \(5,\), not \(68,\)"),
    ],
)
def test_damaged_files_are_refused(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(ValueError, match=message):
        Predictor.load(saved)


def test_other_files_are_refused(folder, saved, tmp_path):  # noqa: F811
    with pytest.raises(FileNotFoundError, match=r"No detector at .*none\.safetensors"):
        Predictor.load(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"not a whole safetensors file.*need their config"):
        Predictor.load(folder / "detector.pth")
    saved.write_bytes(saved.read_bytes()[:5000])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Predictor.load(saved)
    with pytest.raises(ValueError, match="no detector in one file.*Predictor"):
        Predictor.load(folder / "text.safetensors")


def test_the_name_tells_the_format(predictor, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        predictor.save(tmp_path / "detector.pth")
    assert not list(tmp_path.iterdir())


def test_what_a_file_holds(predictor, saved):
    file = DetectorFile.read(saved)
    assert file.training_vocabulary.names == TRAINED
    assert isinstance(file.vocabulary, TextEmbeddings) and file.clip is None
    strange = OmegaConf.create({"a": [object()]}, flags={"allow_objects": True})
    with pytest.raises(
        ValueError, match=r"config.a.0 holds a object, which a detector's file can't"
    ):
        replace(file, cfg=strange).write(saved)
