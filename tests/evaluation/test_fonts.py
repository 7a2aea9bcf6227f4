import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from gridclip.evaluation import fonts
from gridclip.evaluation.pictures import BoxVisualizer


def write_font(path, family, letters):
    """A font in which every letter is a full square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = [".notdef", *(f"uni{ord(letter):04X}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(zip(map(ord, letters), names[1:], strict=True)))
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=0)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Says which fonts the system has; there are none to begin with."""

    def install(*paths):
        monkeypatch.setattr(fonts, "findSystemFonts", lambda: list(paths))
        fonts._system_families.cache_clear()

    install()
    yield install
    fonts._system_families.cache_clear()


def draw(*labels):
    visualizer = BoxVisualizer(np.full((200, 300, 3), 200, np.uint8))
    boxes = [[20, 20 + 60 * i, 280, 70 + 60 * i] for i in range(len(labels))]
    visualizer.overlay_instances(
        boxes=np.array(boxes), labels=labels, assigned_colors=[(1, 1, 1)] * len(labels)
    )
    return visualizer.output.get_image()


def test_latin_names_take_the_default_font_alone(system):
    assert fonts.font_families("crème brûlée 0.93 ★") == ["DejaVu Sans"]


def test_fonts_of_the_system_are_added_as_far_as_needed(system, tmp_path, recwarn):
    (tmp_path / "broken.ttf").write_text("no font")
    system(
        str(tmp_path / "broken.ttf"),
        write_font(tmp_path / "first.ttf", "First Test", "犬"),
        write_font(tmp_path / "second.ttf", "Second Test", "고양"),
        write_font(tmp_path / "third.ttf", "Third Test", "犬고양"),
    )
    assert fonts.font_families("cat 犬 0.5") == ["DejaVu Sans", "First Test"]
    assert fonts.font_families("고양犬") == ["DejaVu Sans", "First Test", "Second Test"]
    assert not recwarn.list


def test_letters_are_drawn(system, tmp_path):
    system(write_font(tmp_path / "dog.ttf", "Dog Test", "犭"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's, of letters that a font lacks
        drawn = draw("犭犭犭")
    # Full squares, in the colour of the label, which is close to white.
    label = drawn[20:40, 20:60].min(-1)
    assert (label > 240).mean() > 0.2
    assert not np.array_equal(drawn, draw("cat"))


def test_letters_of_no_font_are_warned_of_once(system):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        draw("犬", "고양이", "犬")
    (message,) = [str(w.message) for w in caught if "missing from font" not in str(w.message)]
    assert "No installed font has all letters" in message and "fonts-noto-cjk" in message
