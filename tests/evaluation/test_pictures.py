import json

import numpy as np
import pytest
from PIL import Image, ImageColor

from gridclip.data import all_records, open_dataset
from gridclip.drawing import BASE_COLOR, NOVEL_COLOR
from gridclip.evaluation import draw_detections, pictures

WIDTH, HEIGHT = 1200, 800  # large enough not to be enlarged
GAP, CAPTION = 8, 28


@pytest.fixture
def describe(tmp_path):
    """Describes three gray images with one box each: of class 0, of class 1, and of none."""
    images, annotations = [], []
    for image_id, category_id in enumerate((11, 12, None)):
        path = tmp_path / f"image{image_id}.png"
        Image.new("RGB", (WIDTH, HEIGHT), (128, 128, 128)).save(path)
        size = {"width": WIDTH, "height": HEIGHT}
        images.append({"id": image_id, "file_name": path.name, **size})
        box = {"image_id": image_id, "category_id": category_id, "bbox": [200, 300, 400, 350]}
        annotations += [box] if category_id else []
    # Ids of the file are not contiguous class ids.
    categories = [{"id": i, "name": name} for i, name in ((11, "cat"), (12, "dog"), (13, "owl"))]
    path = tmp_path / "small.json"

    def describe(with_annotations=True, **arguments):
        content = {"images": images, "categories": categories}
        content |= {"annotations": annotations} if with_annotations else {}
        path.write_text(json.dumps(content))
        return open_dataset(json=path, images=tmp_path, **arguments)

    return describe


@pytest.fixture
def data(describe):
    return describe()


@pytest.fixture
def records(data):
    return list(all_records(data))


def detection(image_id, category_id, score, bbox=(500, 200, 300, 400)):
    box = list(bbox)
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}


def halves(path):
    """Ground truth and detections, (H, W, 3) each, without captions."""
    picture = np.asarray(Image.open(path)).astype(int)
    assert picture.shape == (CAPTION + HEIGHT, 2 * WIDTH + GAP, 3)
    return picture[CAPTION:, :WIDTH], picture[CAPTION:, WIDTH + GAP :]


def has_color(pixels, color):
    return (np.abs(pixels - ImageColor.getrgb(color)).max(-1) < 40).any()


def test_draws_ground_truth_left_and_detections_right(describe, tmp_path):
    data = describe(novel=["owl"])
    records = list(all_records(data))
    predictions = [detection(0, 11, 0.9), detection(1, 12, 0.8), detection(1, 11, 0.7)]
    written = draw_detections(records, data, predictions, tmp_path / "out")
    assert written == [tmp_path / "out" / f"image{i}.jpg" for i in range(3)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [p.name for p in written]

    left, right = halves(written[0])
    edges = [(475, 200), (475, 600), (650, 400), (300, 500)], [(400, 500), (400, 800), (600, 650)]
    for half, points in zip((left, right), edges, strict=True):
        for y, x in points:
            assert has_color(half[y - 3 : y + 4, x - 3 : x + 4], BASE_COLOR)
    # No box of one side is on the other, and none is marked as novel.
    assert not has_color(left[395:405, 780:820], BASE_COLOR)
    assert not has_color(right[470:480, 195:205], BASE_COLOR)
    assert not has_color(left, NOVEL_COLOR) and not has_color(right, NOVEL_COLOR)

    # Neither ground truth nor detections: the image alone.
    left, right = halves(written[2])
    assert np.abs(left - 128).max() < 16 and np.abs(right - 128).max() < 16


def test_novel_categories_come_first_in_their_own_color(describe, tmp_path):
    data = describe(novel=["dog"])
    predictions = [detection(1, 11, 0.9)]
    written = draw_detections(all_records(data), data, predictions, tmp_path, max_images=1)
    assert [p.name for p in written] == ["image1.jpg"]
    left, right = halves(written[0])
    assert has_color(left, NOVEL_COLOR) and not has_color(left, BASE_COLOR)
    assert has_color(right, BASE_COLOR) and not has_color(right, NOVEL_COLOR)


def test_pictures_of_one_name_in_several_folders(records, data, tmp_path):
    for i, record in enumerate(records[:2]):
        (tmp_path / str(i)).mkdir()
        (tmp_path / f"image{i}.png").rename(tmp_path / str(i) / "same.png")
        record["file_name"] = str(tmp_path / str(i) / "same.png")
    written = draw_detections(records, data, [], tmp_path / "out")
    assert [path.name for path in written] == ["same_0.jpg", "same_1.jpg", "image2.jpg"]
    assert all(path.is_file() for path in written)


def test_score_threshold(records, data, tmp_path, monkeypatch):
    """By default as many as ground-truth boxes and at least 5; otherwise those at or above it."""
    drawn = []
    plain = pictures.draw_boxes

    def record(image, boxes, *args, **kwargs):
        drawn.extend(map(tuple, boxes))
        return plain(image, boxes, *args, **kwargs)

    monkeypatch.setattr(pictures, "draw_boxes", record)
    scores = [0.1, 0.9, 0.3, 0.8, 0.5, 0.7, 0.6]
    predictions = [detection(2, 11, s, bbox=(1000 * s, 10, 20, 20)) for s in scores]
    draw_detections(records[2:], data, predictions, tmp_path)
    assert sorted(x for x, *_ in drawn) == pytest.approx([500, 600, 700, 800, 900])

    drawn.clear()
    draw_detections(records[2:], data, predictions, tmp_path, score_threshold=0.8)
    assert sorted(x for x, *_ in drawn) == pytest.approx([800, 900])

    drawn.clear()
    crowded = {
        **records[0],
        "image_id": 2,
        "annotations": 6 * records[0]["annotations"],
    }
    draw_detections([crowded], data, predictions, tmp_path)
    assert len(drawn) == 6 + 6


def test_without_annotations_the_detections_alone_are_drawn(describe, tmp_path):
    data = describe(with_annotations=False, novel=["dog"])
    predictions = [detection(0, 12, 0.9)]
    written = draw_detections(all_records(data), data, predictions, tmp_path)
    assert len(written) == 3
    left, right = halves(written[0])
    assert np.abs(left - 128).max() < 16 and has_color(right, NOVEL_COLOR)


def test_small_images_are_enlarged(records, data, tmp_path):
    path = tmp_path / "small.png"
    Image.new("RGB", (100, 50)).save(path)
    small = {**records[2], "file_name": str(path), "width": 100, "height": 50}
    (written,) = draw_detections([small], data, [], tmp_path)
    assert Image.open(written).size == (2 * 1000 + GAP, 500 + CAPTION)


def test_errors_of_drawing(records, data, tmp_path):
    with pytest.raises(ValueError, match=r"categories \[4\].*small\.json \(3 categories\)"):
        draw_detections(records, data, [detection(0, 4, 0.5)], tmp_path / "out")
    missing = [{**records[0], "file_name": str(tmp_path / "missing.jpg")}]
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        draw_detections(missing, data, [], tmp_path / "out")
