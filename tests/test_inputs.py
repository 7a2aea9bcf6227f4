"""gridclip/inputs.py: what is named is found, and nothing is written over."""

from pathlib import Path

import pytest
from PIL import Image

from gridclip.inputs import Inputs, check_outputs, find_inputs, plan_outputs


def test_pictures_videos_and_what_is_neither(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("in")
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "no suffix"):
        Image.new("RGB", (4, 4)).save(folder / name, "PNG")
    for name in ("b.mp4", "c.MOV", "notes.txt", ".hidden.png", "broken.jpg"):
        (folder / name).write_text("text")
    found = find_inputs(["in", "in/a.png", "in/*.mp4", "webcam:0", "rtsp://camera/1"])
    assert found.pictures == [folder / n for n in ("a.png", "broken.jpg", "no suffix")]
    assert found.videos == ["in/b.mp4", "in/c.MOV", "webcam:0", "rtsp://camera/1"]
    assert found.others == [folder / "notes.txt", folder / "sub"]
    assert find_inputs(["in/*.txt", "in/a.png"][1:]).others == []


@pytest.mark.parametrize("given", ["empty", "in/*.txt"])
def test_a_folder_or_a_pattern_without_pictures_is_refused(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("in/notes.txt").touch()
    Path("empty").mkdir()
    with pytest.raises(ValueError, match="no pictures in"):
        find_inputs([given])


def inputs(*pictures, videos=()):
    return Inputs([Path(p) for p in pictures], list(videos), [])


def check(found, folder, label_format="json"):
    check_outputs(plan_outputs(found, Path(folder), label_format), found.pictures)


@pytest.mark.parametrize("label_format", ["json", "csv", "coco", "yolo", "voc"])
def test_nothing_is_overwritten(tmp_path, label_format):
    a, b = tmp_path / "x" / "a.jpg", tmp_path / "y" / "a.png"
    check(inputs(a), tmp_path, label_format)
    with pytest.raises(ValueError, match=f"{a} and {b} would both write .*: run them apart"):
        check(inputs(a, b), tmp_path, label_format)
    with pytest.raises(ValueError, match="would replace .*choose another --output"):
        check(inputs(a), tmp_path / "y" / ".." / "x", label_format)
    check(inputs(b), tmp_path / "y", label_format)


def test_videos_and_pictures_do_not_overwrite_each_other(tmp_path):
    check(inputs("a.png", videos=["b.mp4"]), tmp_path)
    with pytest.raises(ValueError, match=r"a.png and a.mp4 would both write .*a.json"):
        check(inputs("a.png", videos=["a.mp4"]), tmp_path)
    with pytest.raises(ValueError, match=r"all pictures and detections.avi would both write"):
        check(inputs("a.png", videos=["detections.avi"]), tmp_path, "csv")
    with pytest.raises(ValueError, match=r"both write .*live.mp4"):
        check(inputs(videos=["rtsp://me:pw@a/live", "rtsp://b/live"]), tmp_path)


def test_of_pictures_the_labels_of_all_count_as_one_output(tmp_path):
    plan = plan_outputs(inputs("a.png", "b {stem}.png", videos=["v.avi"]), tmp_path, "csv")
    assert plan == {
        "The labels of all pictures": [tmp_path / "detections.csv"],
        "a.png": [tmp_path / "a.jpg"],
        "b {stem}.png": [tmp_path / "b {stem}.jpg"],
        "v.avi": [tmp_path / "v.mp4", tmp_path / "v.csv"],
    }
    with pytest.raises(ValueError, match="would replace .*annotations.json"):
        plan = plan_outputs(inputs("a.png"), tmp_path, "coco")
        check_outputs(plan, [tmp_path / "annotations.json"])
