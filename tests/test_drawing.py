"""gridclip/drawing.py: labels that can be read, wherever their boxes are."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gridclip import drawing
from gridclip.drawing import BASE_COLOR, NOVEL_COLOR, draw_boxes, draw_prediction
from gridclip.prediction import Names, Prediction

GREY = (128, 128, 128)


class Label(NamedTuple):
    box: tuple[int, int, int, int]
    pixels: np.ndarray


def draw(size, boxes, labels, **options):
    """The picture, and the labels on it as they were drawn last to first."""
    places = []
    plain = drawing._Text.draw

    def record(text, draw, x, y, color):
        places.append((x, y, x + text.size[0], y + text.size[1]))
        plain(text, draw, x, y, color)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing._Text, "draw", record)
        options.setdefault("classes", [0] * len(boxes))
        drawn = draw_boxes(Image.new("RGB", size, GREY), boxes, labels, **options)
    return drawn, [Label(place, np.asarray(drawn.crop(place))) for place in places]


def color(text):
    return [int(text[i : i + 2], 16) for i in (1, 3, 5)]


def has_color(pixels, wanted):
    return (np.abs(np.asarray(pixels).astype(int) - color(wanted)).max(-1) < 4).any()


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 60, 60),
        (-80, -70, 40, 50),
        (980, 0, 1000, 30),
        (990, 690, 1200, 900),
        (0, 680, 20, 700),
        (-300, -300, 4000, 4000),
        (500, 699, 540, 700),
        (1300, 800, 1400, 900),
    ],
)
def test_a_label_at_a_border_is_the_same_as_in_the_middle(box):
    _, (middle,) = draw((1000, 700), [(400, 300, 700, 500)], ["plain yellow cross 0.93"])
    _, (there,) = draw((1000, 700), [box], ["plain yellow cross 0.93"])
    # The frame may run through the label's ground, as it has its colour; letters are not covered.
    assert np.array_equal(there.pixels, middle.pixels)


sizes = st.integers(1, 1200)
coordinates = st.floats(-2000, 3000, width=32)


@given(
    st.tuples(sizes, sizes),
    st.lists(st.tuples(*[coordinates] * 4), min_size=1, max_size=12),
    st.text("aW 犬★", min_size=1, max_size=60),
)
def test_no_label_ever_leaves_the_picture(size, boxes, label):
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]
    drawn, labels = draw(size, boxes, [label] * len(boxes))
    assert max(drawn.size) == max(drawing.MIN_SIDE, *size)
    for (x0, y0, x1, y1), _ in labels:
        assert 0 <= x0 < x1 <= drawn.width and 0 <= y0 < y1 <= drawn.height


def test_labels_of_a_crowd_do_not_cover_each_other():
    rng = np.random.default_rng(0)
    corners = rng.uniform(300, 600, (30, 2))
    boxes = np.hstack([corners, corners + rng.uniform(5, 90, (30, 2))])
    _, labels = draw((1000, 800), boxes, [f"traffic light 0.{i:02}" for i in range(30)])
    for i, ((x0, y0, x1, y1), _) in enumerate(labels):
        for (u0, v0, u1, v1), _ in labels[:i]:
            assert x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0


def test_the_best_is_on_top():
    boxes = [(100, 100, 700, 500)] * 2
    drawn, _ = draw((800, 600), boxes, ["", ""], novel=[True, False])
    assert has_color(drawn, NOVEL_COLOR) and not has_color(drawn, BASE_COLOR)


@pytest.mark.parametrize("box", [(0, 0, 800, 600), (-50, -50, 900, 900), (-1, 0.4, 799.6, 600)])
def test_all_sides_of_a_box_at_the_border_are_seen(box):
    pixels = np.asarray(draw((800, 600), [box], [""], novel=[True])[0])
    for side in (pixels[:3, 400], pixels[-3:, 400], pixels[300, :3], pixels[300, -3:]):
        assert has_color(side, NOVEL_COLOR)


def test_novel_categories_are_orange_and_starred():
    boxes = [(100, 100, 300, 300), (400, 100, 700, 500)]
    drawn, (base, novel) = draw((800, 600), boxes, ["cat", "cat"], novel=[True, False])
    left, right = drawn.crop((0, 0, 390, 600)), drawn.crop((390, 0, 800, 600))
    assert has_color(left, NOVEL_COLOR) and not has_color(left, BASE_COLOR)
    assert has_color(right, BASE_COLOR) and not has_color(right, NOVEL_COLOR)
    assert novel.pixels.shape[1] > base.pixels.shape[1]  # by the star


def test_where_no_split_is_known_each_category_has_its_color():
    boxes = [(100, 100, 300, 300), (400, 100, 700, 300), (100, 400, 300, 550)]
    drawn, _ = draw((800, 600), boxes, [""] * 3, classes=[0, 1, 0])
    first, second, third = (drawn.getpixel((x, y)) for x, y in ((100, 200), (400, 200), (100, 500)))
    assert first == third != second and GREY not in (first, second)


def test_small_pictures_are_enlarged_and_lines_follow_the_size():
    boxes = np.array([(32, 32, 96, 96)])
    heights, widths = [], []
    for side in (128, 1000, 4000):
        drawn, (label,) = draw((side, side), boxes * side / 128, ["cat"])
        assert drawn.size == (max(side, 640),) * 2
        heights.append(label.pixels.shape[0])
        row = np.asarray(drawn)[drawn.height // 2, : drawn.width // 2]
        widths.append((np.abs(row.astype(int) - GREY).max(-1) > 10).sum())
    assert 15 <= heights[0] <= heights[1]
    assert heights[2] == pytest.approx(4 * heights[1], rel=0.1)
    assert 2 <= widths[0] <= 3 and 10 <= widths[2] <= 11


def test_too_long_a_label_keeps_its_score():
    text = drawing._fitting("a very long name " * 20 + "0.93", 13, (300, 300))
    shown = "".join(run for _, run in text.runs)
    assert shown.startswith("a very long name") and shown.endswith("… 0.93")
    assert 280 < text.size[0] <= 300
    assert drawing._fitting("cat", 13, (9, 300)) is None
    assert drawing._fitting("cat", 13, (300, 9)) is None


def test_names_are_no_formulas_and_the_picture_stays():
    picture = np.full((700, 700, 3), 128, np.uint8)
    drawn = draw_boxes(picture, [(100, 100, 300, 300)], ["a $ and a $ 0.50"], classes=[0])
    assert (picture == 128).all() and (np.asarray(drawn) != 128).any()
    assert np.array_equal(draw_boxes(picture, [], [], classes=[]), picture)


def test_predictions_are_drawn_with_scores_and_tracks(monkeypatch):
    found = Prediction(
        (600, 800),
        vocabulary=Names(("cat", "dog"), frozenset({"cat"})),
        pred_boxes=Boxes(torch.tensor([[10.0, 20, 300, 400], [400, 20, 700, 400]])),
        scores=torch.tensor([0.912, 0.5]),
        pred_classes=torch.tensor([0, 1]),
    )
    labels = []
    plain = drawing._fitting
    monkeypatch.setattr(
        drawing, "_fitting", lambda label, *a: labels.append(label) or plain(label, *a)
    )
    picture = np.full((600, 800, 3), 128, np.uint8)
    drawn = draw_prediction(picture, found)
    assert labels == ["★ dog 0.50", "cat 0.91"]
    assert has_color(drawn, BASE_COLOR) and has_color(drawn, NOVEL_COLOR)
    found.track_ids = torch.tensor([7, -1])
    draw_prediction(picture, found)
    assert labels[2:] == ["★ dog 0.50", "#7 cat 0.91"]
