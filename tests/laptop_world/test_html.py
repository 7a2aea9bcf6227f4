import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from laptop_world import html as report


class Sources(HTMLParser):
    """What a page would fetch, and the tags that are open at its end."""

    def __init__(self, html):
        super().__init__()
        self.sources, self.links, self.open = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "srcset", "data", "poster", "background"):
                self.sources.append(value)
            elif name in ("href", "action"):
                self.links.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (300, 100), "red").save(path)
    return path


def test_a_page_stands_alone_and_is_well_formed(picture):
    html = report.page(
        "A <title>",
        report.section("Heading & more", report.paragraph("see `a < b` and c", "lead")),
        report.figure(picture, 'a "caption"', max_width=150),
        report.figure_grid([report.figure(picture)]),
        report.details("more", report.table(["a"], [["x"]])),
        report.key_figures([("1.0", "AP")]),
    )
    parsed = Sources(html)
    assert parsed.open == [] and parsed.links == []
    assert len(parsed.sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in parsed.sources)
    assert not re.search(r"https?:|url\(|@import|<script|<link", html)
    assert "default-src 'none'" in html and "prefers-color-scheme: dark" in html
    assert "<title>A &lt;title&gt;</title>" in html and "<code>a &lt; b</code>" in html


def test_pictures_shrink_and_keep_their_format(tmp_path, picture):
    def decode(source):
        return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))

    assert decode(report.data_uri(picture, 150)).size == (150, 50)
    assert decode(report.data_uri(picture, 500)).size == (300, 100)
    jpeg = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(jpeg)
    assert decode(report.data_uri(jpeg, 100)).format == "JPEG"
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        report.figure(tmp_path / "absent.png")


def test_table():
    html = report.table(["name", "n", "AP"], [["a<b", 3, 1.25], ["c", 4, None]])
    assert "<td>a&lt;b</td>" in html
    assert '<td class="number">3</td><td class="number">1.2</td>' in html
    assert '<td class="number">–</td>' in html
    assert report.table(["a"], []).count("<tr>") == 1
