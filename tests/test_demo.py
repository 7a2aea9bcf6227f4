import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig
from PIL import Image

from box_sizes import spread_boxes
from gridclip.engine import GridCLIPCheckpointer
from gridclip.engine.train import build_model
from gridclip.predictor import Predictor
from gridclip.text import as_text_embeddings
from odd_files import upright_size, write_odd_files

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
    spread_boxes(model.head)
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
            # Small pictures are enlarged, so that labels can be read.
            assert drawn.size == tuple(640 * side // max(size) for side in size)
        assert f"{path}: {len(expected)} detections ({names[0]} {scores[0]:.2f}, " in done.stdout


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
    assert f"{path}: 0 detections\n" in capsys.readouterr().out
    drawn = Image.open(tmp_path / "none" / "a.jpg")
    plain = Image.open(path).resize(drawn.size, Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(drawn, int) - np.asarray(plain, int)).mean() < 10


def test_bad_pictures_are_named_and_the_others_go_on(folder, tmp_path, capsys):
    (tmp_path / "corrupt.jpg").write_bytes(b"\xff\xd8\xff no picture")
    Image.new("RGB", (5000, 1)).save(tmp_path / "thin.png")
    inputs = [tmp_path / "corrupt.jpg", tmp_path / "gone.jpg", tmp_path / "thin.png"]
    output = tmp_path / "output"
    with pytest.raises(SystemExit) as exit_info:
        demo.main(arguments(folder, output, *inputs, folder / "pictures" / "a.png"))
    assert exit_info.value.code == "error: 3 of 4 inputs failed; see above"
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


@pytest.fixture(scope="module")
def one_file(folder):
    """The detector in one file, with the vocabulary cat, dog, umbrella."""
    predictor = Predictor(
        str(CONFIG), folder / "detector.pth", overrides=overrides(folder, folder / "saved")
    )
    predictor.save(folder / "detector.safetensors", with_clip=True)
    return folder / "detector.safetensors"


def run(one_file, output, *inputs, options=""):
    argv = ["--detector", str(one_file), "--output", str(output), *options.split()]
    demo.main([*argv, "--input", *map(str, inputs)])


def test_a_detector_in_one_file_and_limits(folder, one_file, tmp_path):
    path = folder / "pictures" / "a.png"
    options = "--vocabulary boat,bird --score-threshold 0.1 --nms 0.4 --max-detections 7"
    run(one_file, tmp_path, path, options=options)
    predictor = Predictor.load(one_file)
    predictor.set_vocabulary(["boat", "bird"])
    expected = predictor(path, threshold=0.1, nms=0.4, max_detections=7)
    assert len(expected) == 7
    assert json.loads((tmp_path / "a.json").read_text())["detections"] == expected.to_dicts()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--nms 2", "nms is 2.0: take a number from 0 to 1"),
        ("--max-detections 0", "max_detections is 0"),
        ("--track", "--track numbers the objects of a video"),
        ("--detector gone.safetensors", "No detector at gone.safetensors"),
    ],
)
def test_what_does_not_fit_is_refused(folder, one_file, tmp_path, options, message):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        run(one_file, tmp_path, folder / "pictures" / "a.png", options=options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options", ["", "--config-file a.py", "--detector a --weights b", "--detector a --opts c=1"]
)
def test_a_detector_is_given_in_one_way(options, capsys):
    with pytest.raises(SystemExit) as caught:
        demo.main(["--input", "a.png", "--output", "out", *options.split()])
    assert caught.value.code == 2 and "--detector" in capsys.readouterr().err


def test_nothing_is_written_over_an_input(folder, one_file, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.jpg")
    before = (tmp_path / "a.jpg").read_bytes()
    with pytest.raises(SystemExit, match="error: The output would replace .*a.jpg"):
        run(one_file, tmp_path, tmp_path / "a.jpg")
    (tmp_path / "a.json").write_text('{"categories": [{"id": 1, "name": "cat"}]}')
    with pytest.raises(SystemExit, match="error: The output would replace .*a.json"):
        options = f"--vocabulary {tmp_path}/a.json"
        run(one_file, tmp_path, folder / "pictures/a.png", options=options)
    with pytest.raises(SystemExit, match="both write .*: run them apart"):
        run(one_file, tmp_path / "out", folder / "pictures/a.png", tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").read_bytes() == before and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_folder_of_200_odd_files(one_file, tmp_path, capsys):
    expected = write_odd_files(tmp_path / "odd")
    assert len(expected) >= 200
    with pytest.raises(SystemExit) as caught:
        run(one_file, tmp_path / "out", tmp_path / "odd", options="--max-detections 5")
    names = {kind: {n for n, k in expected.items() if k == kind} for kind in expected.values()}
    printed = capsys.readouterr()

    right = names["picture"]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {Path(n).stem + s for n in right for s in (".json", ".jpg")}
    for name in right:
        path = tmp_path / "odd" / name
        found = json.loads((tmp_path / "out" / f"{Path(name).stem}.json").read_text())
        assert (found["width"], found["height"]) == upright_size(path)
        assert found["image"] == str(path)
        for detection in found["detections"]:
            x0, y0, x1, y1 = detection["box"]
            assert 0 <= x0 <= x1 <= found["width"] and 0 <= y0 <= y1 <= found["height"]

    for name in names["error"]:
        assert sum(f"{tmp_path}/odd/{name}" in x for x in printed.err.split("error: ")[1:]) == 1
    total = len(right) + len(names["error"])
    assert caught.value.code == f"error: {len(names['error'])} of {total} inputs failed; see above"
    (line,) = [x for x in printed.err.splitlines() if "left out" in x]
    assert line.startswith(f"{len(names['other'])} left out, as they are no pictures: ")
    assert all(f"/odd/{name}" in line for name in names["other"])


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A noisy video of 6 frames; its frames as read."""
    path = tmp_path_factory.mktemp("film") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (120, 90))
    picture = np.asarray(Image.effect_noise((120, 90), 60).convert("RGB"))
    for index in range(6):
        writer.write(np.roll(picture, 2 * index, axis=1))
    writer.release()
    return path


def frames_of(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while (found := capture.read())[0]:
        frames.append(np.ascontiguousarray(found[1][..., ::-1]))
    return frames


def test_a_video(one_file, film, tmp_path, capsys):
    run(one_file, tmp_path, film, options="--max-detections 3 --score-threshold 0.2")
    rows = json.loads((tmp_path / "film.json").read_text())
    predictor = Predictor.load(one_file)
    expected = [
        {"frame": index, "time": index / 5, **row}
        for index, frame in enumerate(frames_of(film))
        for row in predictor(frame, max_detections=3, threshold=0.2).to_dicts()
    ]
    assert rows == expected and len(rows) == 18
    drawn = frames_of(tmp_path / "film.mp4")
    assert len(drawn) == 6 and drawn[0].shape == (480, 640, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film.json", "film.mp4"]
    assert f"{film}: 18 detections in 6 frames" in capsys.readouterr().out


def test_tracks_in_csv(one_file, film, tmp_path):
    options = "--track --format csv --max-detections 3 --score-threshold 0.2"
    run(one_file, tmp_path, film, options=options)
    lines = (tmp_path / "film.csv").read_text().splitlines()
    assert lines[0] == "frame,time,name,score,x0,y0,x1,y1,novel,track"
    tracks = [(line.split(",")[0], line.split(",")[-1]) for line in lines[1:]]
    assert {t for frame, t in tracks if frame == "0"} == {""}
    later = [t for frame, t in tracks if frame != "0"]
    assert later and "1" in later


@pytest.mark.parametrize("label_format", ["coco", "yolo", "voc"])
def test_labels_of_videos_are_rows(one_file, film, tmp_path, label_format):
    with pytest.raises(SystemExit, match=f"video are json or csv, not {label_format}"):
        run(one_file, tmp_path, film, options=f"--format {label_format}")


def test_a_broken_video_is_named_and_the_others_go_on(one_file, film, tmp_path, capsys):
    (tmp_path / "no film.mp4").write_text("text")
    inputs = [tmp_path / "no film.mp4", tmp_path / "gone.mp4", film]
    with pytest.raises(SystemExit, match="error: 2 of 3 inputs failed"):
        run(one_file, tmp_path / "out", *inputs)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["film.json", "film.mp4"]
    errors = capsys.readouterr().err
    assert f"error: {inputs[0]} can't be opened as a video." in errors
    assert f"error: No video at {inputs[1]}." in errors


def interrupt_at(monkeypatch, count):
    """Press Ctrl-C while a picture is drawn."""
    plain, drawn = demo.draw_prediction, []

    def draw(*args, **kwargs):
        drawn.append(0)
        if len(drawn) == count:
            signal.raise_signal(signal.SIGINT)
        return plain(*args, **kwargs)

    monkeypatch.setattr(demo, "draw_prediction", draw)


def test_ctrl_c_in_a_video_keeps_what_there_is(one_file, film, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 3)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        run(one_file, tmp_path, film, "webcam:0")
    assert caught.value.code == 130
    assert len(frames_of(tmp_path / "film.mp4")) == 3
    assert {row["frame"] for row in json.loads((tmp_path / "film.json").read_text())} <= {0, 1, 2}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film.json", "film.mp4"]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_ends_a_webcam(one_file, tmp_path, monkeypatch):
    picture = np.asarray(Image.effect_noise((120, 90), 60).convert("RGB"))

    class Camera:
        def __init__(self, source):
            assert source == 0

        isOpened = lambda self: True  # noqa: E731, N815
        get = lambda self, what: 0.0  # noqa: E731
        read = lambda self: (True, picture)  # noqa: E731
        release = lambda self: None  # noqa: E731

    interrupt_at(monkeypatch, 3)
    with monkeypatch.context() as patch:
        patch.setattr(cv2, "VideoCapture", Camera)
        run(one_file, tmp_path, "webcam:0", options="--track")  # rc 0: there is no other end
    assert len(frames_of(tmp_path / "webcam0.mp4")) >= 3
    rows = json.loads((tmp_path / "webcam0.json").read_text())
    assert len({row["frame"] for row in rows}) == 3 and any(row["track"] for row in rows)


@pytest.mark.parametrize(("label_format", "file"), [("csv", "detections.csv"), ("json", "a.json")])
def test_ctrl_c_between_pictures(folder, one_file, tmp_path, monkeypatch, label_format, file):
    interrupt_at(monkeypatch, 1)
    with pytest.raises(SystemExit) as caught:
        run(one_file, tmp_path, folder / "pictures", options=f"--format {label_format}")
    assert caught.value.code == 130
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a.jpg", file])
    assert "a.png" in (tmp_path / file).read_text()


@pytest.mark.parametrize("label_format", ["csv", "coco", "yolo", "voc"])
def test_formats(folder, one_file, tmp_path, label_format):
    run(one_file, tmp_path, folder / "pictures", options=f"--format {label_format}")
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    labels = {
        "csv": {"detections.csv"},
        "coco": {"annotations.json"},
        "yolo": {"data.yaml", "labels/a.txt", "labels/b.txt"},
        "voc": {"annotations/a.xml", "annotations/b.xml"},
    }
    assert written == {"a.jpg", "b.jpg"} | labels[label_format]
