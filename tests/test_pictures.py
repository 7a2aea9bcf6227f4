"""gridclip/pictures.py: whatever a file holds, the detector gets upright RGB with 8 bits."""

import numpy as np
import pytest
from PIL import Image

from gridclip.pictures import find_files, find_pictures, read_picture
from odd_files import write_odd_files

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
COLORS = np.array([[RED, GREEN], [BLUE, GREY]], dtype=np.uint8)
# A sixteenth, a half and all of the range, the ends, and both sides of the first rounding.
DEEP = np.array([[0, 128, 129, 4096], [32768, 65278, 65279, 65535]], dtype=np.uint16)
SHALLOW = np.array([[0, 0, 1, 16], [128, 254, 254, 255]], dtype=np.uint8)


def grey_to_rgb(grey):
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_16_bit_greyscale_is_scaled(tmp_path, name):
    Image.fromarray(DEEP).save(tmp_path / name)
    expected = np.round(DEEP / 257).astype(np.uint8)
    assert np.array_equal(expected, SHALLOW)
    assert np.array_equal(read_picture(tmp_path / name), grey_to_rgb(expected))
    with Image.open(tmp_path / name) as image:
        assert np.array_equal(read_picture(image), grey_to_rgb(expected))


def test_16_bit_pil_images_of_both_byte_orders():
    assert np.array_equal(read_picture(Image.fromarray(DEEP)), grey_to_rgb(SHALLOW))
    big = Image.frombytes("I;16B", (4, 2), DEEP.astype(">u2").tobytes())
    assert np.array_equal(read_picture(big), grey_to_rgb(SHALLOW))


def test_16_bit_greyscale_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(DEEP).save(tmp_path / "deep.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "deep.png"), grey_to_rgb(np.rot90(SHALLOW, -1)))


@pytest.mark.parametrize(("dtype", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_32_bit_numbers_are_refused_with_the_fix(tmp_path, dtype, mode):
    image = Image.fromarray(DEEP.astype(dtype))
    message = f"PIL's mode {mode}.*range is not known. Save the picture with 8 or 16 bits"
    with pytest.raises(ValueError, match=message):
        read_picture(image)
    image.save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match=f"deep.tif can't be read as a picture.*{message}"):
        read_picture(tmp_path / "deep.tif")


def turned(orientation):
    """The pixels that a camera stores for COLORS, by what EXIF's orientations say of them."""
    return {
        1: COLORS,
        2: np.fliplr(COLORS),
        3: np.rot90(COLORS, 2),
        4: np.flipud(COLORS),
        5: COLORS.transpose(1, 0, 2),
        6: np.rot90(COLORS),
        7: np.rot90(COLORS, 2).transpose(1, 0, 2),
        8: np.rot90(COLORS, -1),
    }[orientation]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix):
    path = tmp_path / f"sideways.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(turned(orientation))
    Image.fromarray(stored).save(path, exif=exif)
    assert np.array_equal(read_picture(path), COLORS)
    with Image.open(path) as image:
        assert np.array_equal(read_picture(image), COLORS)


def rgba():
    image = Image.fromarray(COLORS).convert("RGBA")
    image.putalpha(Image.fromarray(np.array([[0, 255], [7, 255]], dtype=np.uint8)))
    return image


KINDS = {
    "rgb.png": lambda: Image.fromarray(COLORS),
    "rgba.png": rgba,
    "palette.png": lambda: Image.fromarray(COLORS).convert("P", palette=Image.Palette.ADAPTIVE),
    "cmyk.tif": lambda: Image.fromarray(COLORS).convert("CMYK"),
}


@pytest.mark.parametrize("name", KINDS)
def test_modes_with_color(tmp_path, name):
    KINDS[name]().save(tmp_path / name)
    assert np.array_equal(read_picture(tmp_path / name), COLORS)
    assert np.array_equal(read_picture(KINDS[name]()), COLORS)


def test_palette_with_transparency(tmp_path):
    KINDS["palette.png"]().save(tmp_path / "p.png", transparency=bytes([0, 128, 255, 255]))
    with Image.open(tmp_path / "p.png") as image:
        assert image.mode == "P" and "transparency" in image.info
    assert np.array_equal(read_picture(tmp_path / "p.png"), COLORS)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_modes_without_color(tmp_path, mode):
    grey = np.array([[0, 255, 255], [255, 0, 255]], dtype=np.uint8)
    Image.fromarray(grey).convert(mode).save(tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as image:
        assert image.mode == mode
    assert np.array_equal(read_picture(tmp_path / "grey.png"), grey_to_rgb(grey))


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (5, 4), color) for color in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "moving.gif") as image:
        assert image.n_frames == 3
    assert (read_picture(tmp_path / "moving.gif") == RED).all()


def test_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), BLUE).save(tmp_path / "one.png")
    assert read_picture(tmp_path / "one.png").tolist() == [[list(BLUE)]]


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "cut.jpg"
    Image.effect_noise((90, 60), 60).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    message = rf"^{path} can't be read as a picture \(OSError: image file is truncated .*\)\.$"
    with pytest.raises(ValueError, match=message):
        read_picture(str(path))


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "text.jpg").write_text("not a picture")
    for path in (tmp_path / "text.jpg", tmp_path):
        with pytest.raises(ValueError, match=f"^{path} can't be read as a picture"):
            read_picture(path)
    with pytest.raises(FileNotFoundError, match="No picture at .*none.jpg"):
        read_picture(tmp_path / "none.jpg")


def test_an_array_passes_through():
    assert read_picture(COLORS) is COLORS


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_array_of_another_kind_is_refused(array):
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 RGB array, not \("):
        read_picture(array)


def test_find_pictures(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", "c[1].jpg"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    a, b, c = tmp_path / "a.PNG", tmp_path / "b.jpg", tmp_path / "c[1].jpg"
    assert find_pictures([str(tmp_path)]) == [a, b, c]
    assert find_pictures([str(tmp_path / "*.jpg"), str(tmp_path), str(b)]) == [b, c, a]
    assert find_pictures([str(c)]) == [c]
    assert find_pictures([str(tmp_path / "gone.jpg")]) == [tmp_path / "gone.jpg"]
    with pytest.raises(ValueError, match="no pictures in .*empty"):
        find_pictures([str(tmp_path / "empty")])


def test_pictures_are_found_by_their_content_and_the_rest_is_listed(tmp_path):
    expected = write_odd_files(tmp_path / "odd")
    found = find_files([str(tmp_path / "odd")])
    others = {path.name for path in found.others}
    assert others == {name for name, is_ in expected.items() if is_ == "other"} | {"film.mp4"}
    assert {path.name for path in found.pictures} == expected.keys() - others
    assert find_files([str(tmp_path / "odd/*")]) == found  # patterns go by the same rules
    assert find_files([str(tmp_path / "odd/notes.txt")]).others == []  # it was named itself
    deeper = find_files([str(tmp_path / "odd/**/*.png")]).pictures
    assert tmp_path / "odd/sub/inside.png" in deeper


def test_other_kinds_of_files_that_pil_only_knows_by_name(tmp_path):
    (tmp_path / "film.mpg").write_bytes(b"\x00\x00\x01\xb3" + bytes(20))
    (tmp_path / "film").write_bytes(b"\x00\x00\x01\xb3" + bytes(20))
    assert find_files([str(tmp_path)]) == ([], [tmp_path / "film", tmp_path / "film.mpg"])
