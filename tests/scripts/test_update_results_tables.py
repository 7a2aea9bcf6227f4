import json
import re

import pytest

from laptop_world.tables import laptop_world_table
from update_results_tables import (
    PROJECT,
    SECTIONS,
    render,
    replace_section,
    update,
)


@pytest.mark.parametrize("name", SECTIONS)
def test_pages_show_what_the_result_files_hold(name):
    page, text = update(name, PROJECT / "results")
    assert text == page.read_text()


@pytest.mark.parametrize("name", SECTIONS)
def test_pictures_of_the_tables_are_found_from_docs(name):
    page, text = update(name, PROJECT / "results")
    links = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert (links or name in ("own-data", "own-vocabulary", "training", "export")) and all(
        (page.parent / link).is_file() for link in links
    )


def test_result_files_of_commits_are_whole():
    assert {p.name for p in (PROJECT / "results").glob("*.json")} >= {
        "overfit16.json",
        "teacher_passes_cpu.json",
    }


def test_missing_markers_are_an_error():
    with pytest.raises(ValueError, match="markers"):
        replace_section("no markers", "results", "tables")


def test_laptop_world_table(tmp_path):
    def cell(mean, std):
        return {"mean": mean, "std": std, "n": 3}

    summary = {
        "no_image_alignment": {"AP": cell(40.0, 1.0), "APr_shape": cell(None, None)},
        "gridclip": {"AP": cell(41.26, 0.52), "APr_shape": cell(20.0, None)},
    }
    rows = laptop_world_table(summary).splitlines()
    assert rows[2:6] == [
        "| | n | AP | APr shape |",
        "|---|---|---|---|",
        "| GridCLIP | 3 | 41.3 ± 0.5 | 20.0 |",
        "| without image-level alignment | 3 | 40.0 ± 1.0 | – |",
    ]
    (tmp_path / "laptop_world.json").write_text(json.dumps(summary))
    assert render(tmp_path, "results").startswith("**The laptop world**")
