import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig
from PIL import Image

from gridclip.engine import GridCLIPCheckpointer
from gridclip.engine.train import build_model
from gridclip.predictor import Predictor
from gridclip.text import as_text_embeddings

PROJECT = Path(__file__).parents[1] / "projects/GridCLIP"
CONFIG = PROJECT / "configs/lvis/gridclip_r50_ov_smoke.py"
TINY = [
    "model.backbone.bottom_up.layers=[1,1,1,1]",
    "model.backbone.bottom_up.width=16",
    "model.backbone.bottom_up.embed_dim=64",
    "model.backbone.bottom_up.input_resolution=64",
    "model.backbone.out_channels=32",
    "model.head.conv_dims=[32]",
    "model.classifier.embed_dim=64",
    "model.test_topk_candidates=100",
]

spec = importlib.util.spec_from_file_location("gridclip_demo", PROJECT / "demo.py")
demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_clip):
    """tiny.pt, trained.txt, detector.pth and pictures/{a.png,b.jpg}."""
    folder = tmp_path_factory.mktemp("demo")
    torch.manual_seed(0)
    make_clip(embed_dim=64, vision_width=16).rename(folder / "tiny.pt")
    (folder / "trained.txt").write_text("cat\ndog\numbrella\n")
    as_text_embeddings(["cat"], folder / "tiny.pt", "single").save(folder / "text.safetensors")
    cfg = LazyConfig.apply_overrides(LazyConfig.load(str(CONFIG)), TINY)
    cfg.model.classifier.text_embeddings = str(folder / "text.safetensors")
    cfg.model.federated_weights = None
    model = build_model(cfg)
    checkpointer = GridCLIPCheckpointer(model, str(folder))
    checkpointer.load(str(folder / "tiny.pt"))
    torch.nn.init.constant_(model.head.bbox_pred.bias, 2.0)  # boxes of some size
    checkpointer.save("detector")

    (folder / "pictures").mkdir()
    for name, size in (("a.png", (120, 90)), ("b.jpg", (80, 100))):
        Image.effect_noise(size, 60).convert("RGB").save(folder / "pictures" / name)
    return folder


def arguments(folder, output, *inputs, vocabulary="red shoe, traffic cone", threshold="0.0"):
    return [
        *("--config-file", str(CONFIG), "--weights", str(folder / "detector.pth")),
        *("--output", str(output), "--score-threshold", threshold),
        *(("--vocabulary", vocabulary) if vocabulary is not None else ()),
        *("--input", *map(str, inputs)),
        *("--opts", *overrides(folder, output)),
    ]


def overrides(folder, output):
    return [
        *TINY,
        f"clip.weights={folder}/tiny.pt",
        f"clip.names={folder}/trained.txt",
        f"clip.text_embeddings={output}/text.safetensors",
    ]


def test_end_to_end(folder, tmp_path):
    output = tmp_path / "new" / "output"
    command = [sys.executable, str(PROJECT / "demo.py")]
    done = subprocess.run(
        command + arguments(folder, output, folder / "pictures"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in output.iterdir()) == ["a.jpg", "a.json", "b.jpg", "b.json"]

    predictor = Predictor(
        str(CONFIG),
        folder / "detector.pth",
        vocabulary=["red shoe", "traffic cone"],
        overrides=overrides(folder, tmp_path),
    )
    for name, size in (("a.png", (120, 90)), ("b.jpg", (80, 100))):
        path = folder / "pictures" / name
        found = json.loads((output / f"{path.stem}.json").read_text())
        assert (found["image"], found["width"], found["height"]) == (str(path), *size)
        expected = predictor(path)
        assert len(found["detections"]) == len(expected) > 3
        names = [predictor.names[c] for c in expected.pred_classes]
        assert [d["name"] for d in found["detections"]] == names
        scores = [d["score"] for d in found["detections"]]
        np.testing.assert_allclose(scores, expected.scores, atol=1e-3)
        boxes = [d["box"] for d in found["detections"]]
        np.testing.assert_allclose(boxes, expected.pred_boxes.tensor, atol=0.05)
        with Image.open(output / f"{path.stem}.jpg") as drawn:
            assert drawn.size == size
        assert f"{path}: {len(expected)} detections ({names[0]} {scores[0]:.2f}, " in done.stdout
        assert " ms\n" in done.stdout


def test_threshold_and_training_vocabulary(folder, tmp_path, capsys):
    path = folder / "pictures" / "a.png"
    demo.main(arguments(folder, tmp_path / "all", path, vocabulary=None))
    detections = json.loads((tmp_path / "all" / "a.json").read_text())["detections"]
    assert {d["name"] for d in detections} <= {"cat", "dog", "umbrella"}
    scores = sorted({d["score"] for d in detections}, reverse=True)
    threshold = (scores[0] + scores[1]) / 2
    demo.main(arguments(folder, tmp_path / "best", path, vocabulary=None, threshold=f"{threshold}"))
    best = json.loads((tmp_path / "best" / "a.json").read_text())["detections"]
    assert best == [d for d in detections if d["score"] == scores[0]]
    demo.main(arguments(folder, tmp_path / "none", path, vocabulary=None, threshold="1.0"))
    assert json.loads((tmp_path / "none" / "a.json").read_text())["detections"] == []
    assert f"{path}: 0 detections, " in capsys.readouterr().out
    drawn = Image.open(tmp_path / "none" / "a.jpg")
    assert np.abs(np.asarray(drawn, int) - np.asarray(Image.open(path), int)).mean() < 10


def test_bad_pictures_are_named_and_the_others_go_on(folder, tmp_path, capsys):
    (tmp_path / "corrupt.jpg").write_bytes(b"\xff\xd8\xff no picture")
    Image.new("RGB", (5000, 1)).save(tmp_path / "thin.png")
    inputs = [tmp_path / "corrupt.jpg", tmp_path / "gone.jpg", tmp_path / "thin.png"]
    output = tmp_path / "output"
    with pytest.raises(SystemExit) as exit_info:
        demo.main(arguments(folder, output, *inputs, folder / "pictures" / "a.png"))
    assert exit_info.value.code == "error: 3 of 4 pictures failed; see above"
    assert sorted(p.name for p in output.iterdir()) == ["a.jpg", "a.json"]
    errors = capsys.readouterr().err
    assert f"error: {inputs[0]} can't be read as a picture" in errors
    assert f"error: No picture at {inputs[1]}." in errors
    assert f"error: {inputs[2]}: A picture of 5000 x 1 pixels is too thin." in errors


def test_vocabulary_files(folder, tmp_path, capsys):
    kites = as_text_embeddings(["kite", "kiwi"], folder / "tiny.pt", "single")
    kites.save(tmp_path / "k.safetensors")
    (tmp_path / "names.txt").write_text("boat\nbird\n")
    cases = {
        "k.safetensors": {"kite", "kiwi"},
        "names.txt": {"boat", "bird"},
    }
    for file, names in cases.items():
        vocabulary = str(tmp_path / file)
        path = folder / "pictures" / "a.png"
        demo.main(arguments(folder, tmp_path / "output", path, vocabulary=vocabulary))
        detections = json.loads((tmp_path / "output" / "a.json").read_text())["detections"]
        assert detections and {d["name"] for d in detections} <= names
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'k.safetensors'}: 2 names: kite, kiwi\n" in printed
    assert f"{tmp_path / 'names.txt'}: 2 names: boat, bird\n" in printed


def test_many_names_of_a_file_are_printed_in_short(folder, tmp_path, capsys):
    argv = arguments(folder, tmp_path, folder / "pictures" / "a.png", vocabulary="voc")
    demo.main(argv)
    assert "voc: 20 names: aeroplane, bicycle, bird, ...\n" in capsys.readouterr().out


def test_parse_vocabulary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("names").write_text("cat")
    assert demo.parse_vocabulary(" red shoe,traffic cone ,") == ["red shoe", "traffic cone"]
    assert demo.parse_vocabulary("cat") == ["cat"]
    for kept in ("coco", "names", "gone.txt", "a, b.safetensors"):
        assert demo.parse_vocabulary(kept) == kept
    many = [f"thing {i}" for i in range(1000)]  # longer than a file's name may be
    assert demo.parse_vocabulary(", ".join(many)) == many


@pytest.mark.parametrize(
    "name",
    ["No. 5 bolt", "w/o lid", "1/2 inch pipe", "Dr. Pepper", "3.5 mm jack", "size 4.5", "item #5"],
)
def test_names_with_dots_and_slashes_are_names(name):
    assert demo.parse_vocabulary(name) == [name]
    assert demo.parse_vocabulary(f"cat, {name}") == ["cat", name]


@pytest.mark.parametrize("file", ["coco.nmes", "names/mine", "./my names", "~/x", "/a b/c", "a/"])
def test_a_file_that_is_not_there_is_no_name(file):
    with pytest.raises(FileNotFoundError, match=f"no file '{file}'.*put a comma behind it"):
        demo.parse_vocabulary(file)
    assert demo.parse_vocabulary(f"{file},") == [file]


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (" , ", "no category names"),
        ("gone.txt", "gone.txt"),
        ("coco.nmes", "no file 'coco.nmes'"),
        ("cat, cat", "the same name 'cat'"),
    ],
)
def test_bad_vocabulary_ends_with_a_message(folder, tmp_path, vocabulary, message):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        demo.main(arguments(folder, tmp_path, folder / "pictures" / "a.png", vocabulary=vocabulary))


def test_missing_weights_end_with_a_message(folder, tmp_path):
    argv = arguments(folder, tmp_path, folder / "pictures" / "a.png")
    argv[argv.index(str(folder / "detector.pth"))] = "gone.pth"
    with pytest.raises(SystemExit, match="error: No weights at 'gone.pth'"):
        demo.main(argv)


def test_find_pictures(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", "c[1].jpg"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    a, b, c = tmp_path / "a.PNG", tmp_path / "b.jpg", tmp_path / "c[1].jpg"
    assert demo.find_pictures([str(tmp_path)]) == [a, b, c]
    assert demo.find_pictures([str(tmp_path / "*.jpg"), str(tmp_path), str(b)]) == [b, c, a]
    assert demo.find_pictures([str(c)]) == [c]
    assert demo.find_pictures([str(tmp_path / "gone.jpg")]) == [tmp_path / "gone.jpg"]
    with pytest.raises(ValueError, match="no pictures in .*empty"):
        demo.find_pictures([str(tmp_path / "empty")])


def test_nothing_is_overwritten(tmp_path):
    a, b = tmp_path / "x" / "a.jpg", tmp_path / "y" / "a.png"
    demo.check_outputs([a], tmp_path)
    with pytest.raises(ValueError, match=f"{a} and {b} would both write"):
        demo.check_outputs([a, b], tmp_path)
    with pytest.raises(ValueError, match="would replace .*choose another --output"):
        demo.check_outputs([a], tmp_path / "y" / ".." / "x")
    demo.check_outputs([b], tmp_path / "y")
