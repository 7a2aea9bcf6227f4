import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gridclip.data.regions import WINDOW_SETS, pixel_windows, windows

sides = st.integers(min_value=1, max_value=2000)


def test_whole_is_one_box():
    assert windows("whole").tolist() == [[0, 0, 1, 1]]


def test_tiles9_are_half_size_in_quarter_steps_row_by_row():
    boxes = windows("tiles9")
    assert boxes.dtype == torch.float32
    assert boxes[:4].tolist() == [
        [0, 0, 0.5, 0.5],
        [0.25, 0, 0.75, 0.5],
        [0.5, 0, 1, 0.5],
        [0, 0.25, 0.5, 0.75],
    ]
    assert boxes[8].tolist() == [0.5, 0.5, 1, 1]
    torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2], torch.full((9, 2), 0.5))


def test_whole_and_tiles_in_this_order():
    expected = torch.cat([windows("whole"), windows("tiles9")])
    assert torch.equal(windows("whole+tiles9"), expected)


def test_unknown_name_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="'tiles4'.*whole, tiles9"):
        windows("tiles4")


def test_pixel_windows_exact():
    boxes = pixel_windows(windows("whole+tiles9"), height=100, width=203)
    assert boxes.dtype == torch.int64
    assert boxes[0].tolist() == [0, 0, 203, 100]
    assert boxes[1].tolist() == [0, 0, 102, 50]
    assert boxes[2].tolist() == [50, 0, 153, 50]
    assert boxes[9].tolist() == [101, 50, 203, 100]


@given(st.sampled_from(sorted(WINDOW_SETS)), sides, sides)
def test_pixel_windows_are_inside_and_never_empty(name, height, width):
    x0, y0, x1, y1 = pixel_windows(windows(name), height, width).unbind(1)
    assert (x0 >= 0).all() and (y0 >= 0).all() and (x1 <= width).all() and (y1 <= height).all()
    assert (x0 < x1).all() and (y0 < y1).all()


@given(sides, sides)
def test_mirrored_tiles_are_the_tiles_of_the_mirrored_picture(height, width):
    tiles = pixel_windows(windows("tiles9"), height, width).view(3, 3, 4)
    mirrored = tiles.clone()
    mirrored[..., 0], mirrored[..., 2] = width - tiles[..., 2], width - tiles[..., 0]
    assert torch.equal(mirrored.flip(1), tiles)
