import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from gridclip import fonts
from gridclip.drawing import draw_boxes


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
def system(monkeypatch):
    """Says which fonts the system has; there are none to begin with."""

    def install(*paths):
        monkeypatch.setattr(fonts, "findSystemFonts", lambda: list(paths))
        fonts._system_letters.cache_clear()

    install()
    yield install
    fonts._system_letters.cache_clear()


def draw(*labels):
    boxes = [[20, 60 + 90 * i, 280, 100 + 90 * i] for i in range(len(labels))]
    picture = np.full((640, 640, 3), 200, np.uint8)
    novel = [False] * len(labels)
    return np.asarray(draw_boxes(picture, boxes, labels, classes=novel, novel=novel))


def test_latin_names_take_the_default_font_alone(system):
    own = fonts.default_font()
    assert fonts.font_runs("crème brûlée 0.93 ★") == [(own, "crème brûlée 0.93 ★")]
    assert fonts.font_runs("") == []


def test_fonts_of_the_system_are_taken_as_far_as_needed(system, tmp_path, recwarn):
    (tmp_path / "broken.ttf").write_text("no font")
    first, second, third = (
        write_font(tmp_path / "first-Regular.ttf", "First Test", "犬"),
        write_font(tmp_path / "second.ttf", "Second Test", "고양"),
        write_font(tmp_path / "third.ttf", "Third Test", "犬고양"),
    )
    system(third, str(tmp_path / "broken.ttf"), second, first)
    own = fonts.default_font()
    assert fonts.font_runs("cat 犬 0.5") == [(own, "cat "), (first, "犬 "), (own, "0.5")]
    assert fonts.font_runs("고양犬") == [(second, "고양"), (first, "犬")]
    assert not recwarn.list


def test_an_accent_stays_with_its_letter(system, tmp_path):
    font = write_font(tmp_path / "hindi.ttf", "Hindi Test", "क")
    system(font)
    assert fonts.font_runs("कि") == [(font, "कि")]


def test_letters_are_drawn(system, tmp_path):
    system(write_font(tmp_path / "dog.ttf", "Dog Test", "犭"))
    drawn = draw("犭犭犭")
    label = drawn[40:60, 20:70].max(-1)
    assert (label < 10).mean() > 0.3  # full squares, in black
    assert not np.array_equal(drawn, draw("cat"))


def test_letters_of_no_font_are_warned_of_once(system):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        draw("犬", "고양이", "犬")
    (message,) = [str(w.message) for w in caught]
    assert "No installed font has all letters" in message and "fonts-noto-cjk" in message
