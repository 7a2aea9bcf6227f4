import pytest
from PIL import Image

from page import given
from page.given import Drawing, Example, check_picture, make_queries, make_view

CROP = Image.new("RGB", (2, 2))


def test_words_and_examples_of_a_name_stand_for_it_together():
    examples = [
        Example("Cup", "a.png", (0, 0, 5, 5), CROP),
        Example("dog", "b.png", (1, 1, 9, 9), CROP),
    ]
    assert make_queries(" red  shoe, cup,CUP\nkite,,", examples) == {
        "red shoe": ["red shoe"],
        "cup": ["cup", ("a.png", (0, 0, 5, 5))],
        "kite": ["kite"],
        "dog": [("b.png", (1, 1, 9, 9))],
    }
    assert make_queries(" , ", []) == {}


def test_too_many_names_are_refused():
    names = [f"thing {i}" for i in range(given.MAX_NAMES + 1)]
    assert len(make_queries(",".join(names[1:]), [])) == given.MAX_NAMES
    with pytest.raises(ValueError, match=r"201 names \(thing 0, .*\): take at most 200"):
        make_queries(",".join(names), [])


def test_pixels_are_counted_before_they_are_read(tmp_path):
    """The files end behind their headers."""
    for name, size in (("large.pbm", "8000 8000"), ("huge.pbm", "90000 90000")):
        (tmp_path / name).write_bytes(f"P4\n{size}\n".encode())
        with pytest.raises(ValueError, match=f"^{name} has more than 50 million pixels"):
            check_picture(str(tmp_path / name))
    (tmp_path / "allowed.pbm").write_bytes(b"P4\n7000 7000\n")
    check_picture(str(tmp_path / "allowed.pbm"))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"^text.png can't be read as a picture\.$"):
        check_picture(str(tmp_path / "text.png"))


@pytest.mark.parametrize(
    ("size", "shown"), [((128, 64), (640, 320)), ((800, 600), (800, 600)), ((2560, 10), (1280, 5))]
)
def test_a_view_fits_the_screen(tmp_path, size, shown):
    Image.new("RGB", size).save(tmp_path / "picture.png")
    view, scale = make_view(str(tmp_path / "picture.png"))
    assert view.size == shown and scale == shown[0] / size[0]


def test_two_clicks_on_a_view_are_a_box_in_the_pixels_of_the_picture(tmp_path):
    image = Image.new("RGB", (128, 96))
    image.paste((250, 0, 0), (20, 10, 60, 50))
    exif = image.getexif()
    exif[0x0112] = 3  # lies upside down
    image.rotate(180).save(tmp_path / "picture.png", exif=exif)
    drawing = Drawing.on(str(tmp_path / "picture.png"))
    assert drawing.scale == 5 and drawing.draw() == drawing.view
    with pytest.raises(ValueError, match="click two opposite corners"):
        drawing.clicked((300, 50)).example("red")
    drawn = drawing.clicked((300, 50)).clicked((100, 250))
    example = drawn.example("  red thing ")
    assert example[:3] == ("red thing", drawing.path, (20, 10, 60, 50))
    assert example.crop.size == (200, 200)
    assert example.crop.getpixel((100, 100)) == (250, 0, 0)
    assert drawn.draw().getpixel((200, 50)) == (255, 128, 0)  # the box's upper edge
    assert drawn.clicked((7, 8)).corners == ((7, 8),)
    with pytest.raises(ValueError, match="Give the example a name"):
        drawn.example(" ")
    with pytest.raises(ValueError, match="too small"):
        drawing.clicked((300, 50)).clicked((100, 51)).example("red")
