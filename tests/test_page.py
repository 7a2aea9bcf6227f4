"""A page stands alone, is well-formed, and escapes what comes from outside."""

import base64
import io
import re

import pytest
from PIL import Image

from drawn_page import Page
from gridclip.page import Figure, Section, Table, data_uri, write_page


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (300, 100), "red").save(path)
    return path


@pytest.fixture
def write(tmp_path):
    """Writes a page of one section and returns it as text."""

    def write(*contents, title="All"):
        path = tmp_path / "new" / "index.html"
        write_page(path, "<Results>", "The 'lead'.", [Section(title, contents)])
        assert [p.name for p in path.parent.iterdir()] == ["index.html"]
        return path.read_text(encoding="utf-8")

    return write


def decode(source):
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))


def test_stands_alone(write, picture):
    table = Table(["a", "b"], [["x", 1]])
    html = write("Text.", Figure(picture, "one"), table, Table(["a"], [["y"]], summary="More"))
    page = Page(html)
    assert page.open == [] and page.links == [] and len(page.sources) == 1
    assert decode(page.sources[0]).size == (300, 100)
    assert not re.search(r"https?:|url\(|@import|<script|<link", html)
    assert "default-src 'none'" in html and 'name="viewport"' in html
    assert html.index("Text.") < html.index("<img") < html.index("<td>x") < html.index("<details>")


def test_what_comes_from_outside_is_escaped(write, picture):
    html = write(
        "a < b", Figure(picture, 'the "red" & <b>'), Table(["<h>"], [["<c>"]]), title="<t>"
    )
    page = Page(html)
    assert page.alts == ['the "red" & <b>']
    assert {"a < b", "<h>", "<c>", "<t>", "<Results>", "The 'lead'."} <= set(page.texts)


def test_numbers_of_a_table(write):
    rows = [["a", 3, 1.25], ["c", 4, None], ["d", 5, float("nan")]]
    html = write(Table(["name", "count", "AP"], rows))
    assert '<td class="number">3</td><td class="number">1.2</td>' in html
    assert html.count('<td class="number">–</td>') == 2 and '<th class="number">AP</th>' in html
    assert "<td>a</td>" in html and "<th>name</th>" in html


def test_pictures_shrink_and_keep_their_format(tmp_path, picture):
    assert decode(data_uri(picture, 150)).size == (150, 50)
    assert decode(data_uri(picture, 500)).size == (300, 100)
    jpeg = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(jpeg)
    assert decode(data_uri(jpeg, 100)).format == "JPEG"


def test_a_missing_picture_is_named_and_the_old_page_stays(tmp_path):
    path = tmp_path / "index.html"
    path.write_text("old")
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        write_page(path, "", "", [Section("", [Figure(tmp_path / "absent.png", "")])])
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
