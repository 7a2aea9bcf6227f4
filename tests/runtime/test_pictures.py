import numpy as np
import pytest
from detectron2.data import transforms as T
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gridclip.pictures import read_picture as read_by_gridclip
from gridclip_runtime.pictures import as_input, read_picture, resized

sides = st.integers(8, 300)


@given(sides, sides, st.integers(16, 120), st.integers(60, 160))
def test_resizing_is_detectron2s(height, width, short, longest):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    expected = T.AugInput(pixels)
    T.ResizeShortestEdge(short, longest)(expected)
    np.testing.assert_array_equal(resized(pixels, (short, longest)), expected.image)


def test_as_it_is_and_too_thin():
    pixels = np.zeros((1, 900, 3), np.uint8)
    assert resized(pixels, None) is pixels
    with pytest.raises(ValueError, match="900 x 1 pixels is too thin"):
        resized(pixels, (64, 64))


def test_input_is_filled_to_multiples():
    pixels = np.random.default_rng(0).integers(0, 256, (33, 64, 3), np.uint8)
    image = as_input(pixels, 32, (1.5, 2.5, 3.5))
    assert image.shape == (1, 3, 64, 64) and image.dtype == np.float32
    np.testing.assert_array_equal(image[0, :, :33], pixels.transpose(2, 0, 1))
    assert (image[0, :, 33:] == np.array([1.5, 2.5, 3.5]).reshape(3, 1, 1)).all()


@pytest.mark.parametrize("orientation", range(9))
def test_pictures_are_read_as_by_gridclip(orientation, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path, exif=exif)
    found = read_picture(path)
    assert found.shape == ((30, 20, 3) if orientation > 4 else (20, 30, 3))
    np.testing.assert_array_equal(found, read_by_gridclip(path))
    np.testing.assert_array_equal(found, read_picture(Image.open(path)))


def test_what_is_no_picture(tmp_path):
    with pytest.raises(FileNotFoundError, match="No picture at gone.png"):
        read_picture("gone.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="text.png can't be read as a picture"):
        read_picture(tmp_path / "text.png")
    with pytest.raises(ValueError, match="must be an"):
        read_picture(np.zeros((4, 4), np.uint8))
