"""The demo's report: well-formed, standing alone, with everything from outside escaped."""

import re

import pytest
from PIL import Image

from drawn_page import Page
from gridclip.files import write_json
from laptop_world import demo as run_demo
from laptop_world import demo_page
from laptop_world.shapes import generate_shapes, load_world


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / 'a "red" picture.png'
    Image.new("RGB", (300, 100), "red").save(path)
    return path


def provenance(seconds, facts=()):
    return {"seconds": seconds, "facts": facts, "overrides": ["a < b"], "config": "{<b>}"}


def sections(picture):
    found = {"picture": picture, "score": 0.25, "right": True}
    return {
        "introduction": {"base": 96, "novel": 34, "figures": [(1.04, "AP"), ("3 s", "<in all>")]},
        "detections": [picture],
        "accuracy": {
            "images": 4,
            "protocol": "standard & plain",
            "rows": [["all", 130, "AP", 1.0]],
            "novel": [["red <star>", "shape", 2.0]],
        },
        "words": [
            {"word": "A <word> & more", "trained_on": True, "best": [found]},
            {"word": "x", "trained_on": False, "best": []},
        ],
        "training": {"steps": 400, "batch_size": 16, "losses": picture},
        "provenance": provenance([["data", 1.5]]),
    }


def test_a_page_stands_alone_and_is_well_formed(picture):
    html = demo_page.render(**sections(picture))
    page = Page(html)
    assert page.open == [] and page.links == []
    assert len(page.sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?:|url\(|@import|<script|<link", html)
    assert "default-src 'none'" in html and "prefers-color-scheme: dark" in html


def test_what_comes_from_outside_is_escaped(picture):
    html = demo_page.render(**sections(picture))
    assert "<h3>A &lt;word&gt; &amp; more</h3>" in html and "<code>a &lt; b</code>" in html
    assert "<b>1.0</b><span>AP</span>" in html and "<span>&lt;in all&gt;</span>" in html
    page = Page(html)
    assert page.alts == ['a "red" picture', "0.250 ✓", 'a "red" picture']
    assert {"A <word> & more", "a < b", "{<b>}", "red <star>"} <= set(page.texts)


def test_sections_without_facts_are_left_out(picture):
    headings = re.compile(r"<h2>(.*)</h2>")
    assert headings.findall(demo_page.render()) == []
    assert headings.findall(demo_page.render(**sections(picture), speed=None)) == [
        *("Detections on held-out pictures", "Accuracy", "Words of your own", "Training"),
        "How it was made",
    ]


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        demo_page.render(detections=[tmp_path / "absent.png"])


def test_table():
    rows = [["a<b", 3, 1.25], ["c", 4, None], ["d", 5, float("nan")]]
    html = demo_page.render(provenance=provenance([], rows))
    assert "<td>a&lt;b</td>" in html
    assert '<td class="number">3</td><td class="number">1.2</td>' in html
    assert html.count('<td class="number">–</td>') == 2
    html = demo_page.render(provenance=provenance([]))
    assert html.count("<tr>") == 2 and "number" not in html.partition("<h1>")[2]


def leave_what_stages_leave(demo, picture):
    """All but the speeds, without training anything."""
    generate_shapes(demo.world, demo.datasets / "shapes", train=4, val=2, size=32)
    names = [" ".join(name) for name in load_world(demo.world).names]
    write_json(demo.run / "per_category_ap.json", {name: 12.5 for name in names})
    best = [{"picture": "0_0.png", "score": 0.5, "right": None}]
    words = [{"word": "banana", "trained_on": False, "best": best}]
    write_json(demo.run / "words/words.json", words)
    for path in ("words/0_0.png", "losses.png", "pictures/1.jpg"):
        (demo.run / path).parent.mkdir(exist_ok=True)
        Image.open(picture).save(demo.run / path)
    metrics = {"AP": 43.21, "AP50": 60.0, "APr": 34.0, "APc": 40.0, "APf": 50.0}
    text = ("task", "evaluator", "ap", "dataset", "dataset_sha256", "split")
    record = {
        "metrics": {"bbox": {**metrics, "APr_shape": None}},
        "protocol": {
            **dict.fromkeys(text, "of a test"),
            **{"images": 2, "categories": 130, "novel_classes": 34, "notes": []},
        },
        "data": {},
        "config": {"train": {"seed": 7}},
        "versions": {"torch": "2.0"},
        **dict.fromkeys(("commit", "device", "weights", "date"), "of a test"),
        **{"seed": 7, "iterations": 12, "seconds": 1.0},
    }
    write_json(demo.run / "results.json", record)


def test_a_report_tells_what_the_stages_have_left(tmp_path, picture, laptop_clip):
    demo = run_demo.parse_args(
        ["--output", str(tmp_path / "demo"), "--override", f"clip.weights={laptop_clip}"]
    )
    leave_what_stages_leave(demo, picture)
    path = demo_page.write(demo, {"data": 2.0, "training": 61.0})
    assert path == tmp_path / "demo/report.html"
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == [] and len(page.sources) == 3 and "<h2>Speed</h2>" not in html
    assert "trained on 96 categories" in html and "<b>1 min 3 s</b>" in html
    assert re.search(r"APr</td><td class=.number.>34\.0<", html)
    assert re.search(r"14</td><td>APr_shape</td><td class=.number.>–<", html)
    assert "<h3>banana</h3>" in html and "of the 1 shown" not in html  # unknown
    assert "12 steps of 16 pictures" in html and f"<code>clip.weights={laptop_clip}</code>" in html
    assert html.count("<td>shape</td>") == 14 and any('"seed": 7' in text for text in page.texts)

    (demo.run / "losses.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"losses\.png"):
        demo_page.write(demo, {"data": 2.0})
    assert path.read_text(encoding="utf-8") == html
    assert demo_page.metrics_text(demo).split()[:3] == ["AP", "AP50", "APr"]
