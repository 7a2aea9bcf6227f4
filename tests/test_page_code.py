"""The code of the pages runs, in a folder like the repository's root after ``make demo``."""

import json
from pathlib import Path

import pytest
from PIL import Image

from demo_root import root, run_page  # noqa: F401 (a fixture)
from pages import PAGES, ROOT, blocks

pytestmark = pytest.mark.usefixtures("root")


def test_readme():
    namespace = run_page(ROOT / "README.md")
    assert len(namespace["instances"]) > 0
    assert max(Image.open("detections.jpg").size) == 640  # enlarged
    assert len(namespace["predictor"].names) >= 2


def test_own_vocabulary(capsys):
    namespace = run_page(ROOT / "docs/own-vocabulary.md")
    assert max(Image.open("detections.jpg").size) == 640  # enlarged
    assert len(namespace["detections"]) == len(namespace["best"]) == 5
    assert [found.source for found in namespace["several"]] == ["street.jpg", "pictures/0.png"]
    assert 0 < len(namespace["few"]) <= 20
    assert set(namespace["cones"].names) == {"traffic cone"}
    assert "pictures/0.png" in capsys.readouterr().out


def test_troubleshooting():
    namespace = run_page(ROOT / "docs/troubleshooting.md")
    assert "class_name" in namespace["detections"].data


def test_quick_start(capsys):
    namespace = run_page(ROOT / "docs/quick-start.md", ("python", "sh"))
    assert namespace["predictor"].names == ("this one",)
    assert Image.open("found.png").size == Image.open("out/mine.jpg").size == (640, 640)
    written = json.loads(Path("out/mine.json").read_text())
    assert written["image"] == "mine.png"
    printed = capsys.readouterr().out
    assert "usage: gridclip COMMAND" in printed and "usage: gridclip predict" in printed


def test_equal_losses():
    run_page(ROOT / "CONTRIBUTING.md")
    Path("output/after/metrics.json").write_text('{"iteration": 0, "total_loss": 1.1}\n')
    with pytest.raises(AssertionError):
        run_page(ROOT / "CONTRIBUTING.md")


def test_all_python_is_run():
    """The tests above and test_own_data_page.py run every page that has Python."""
    with_python = {str(p.relative_to(ROOT)) for p in PAGES if blocks(p.read_text(), "python")}
    pages = ("export", "quick-start", "own-data", "own-vocabulary", "troubleshooting")
    assert with_python == {"README.md", "CONTRIBUTING.md", *(f"docs/{page}.md" for page in pages)}
