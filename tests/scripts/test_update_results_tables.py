import pytest

from update_results_tables import PROJECT, render, replace_section


def test_readme_shows_what_the_result_files_hold():
    readme = (PROJECT / "README.md").read_text()
    assert replace_section(readme, render(PROJECT / "results")) == readme


def test_result_files_of_commits_are_whole():
    assert {p.name for p in (PROJECT / "results").glob("*.json")} >= {
        "overfit16.json",
        "training_step_cpu.json",
    }


def test_missing_markers_are_an_error():
    with pytest.raises(ValueError, match="markers"):
        replace_section("no markers", "tables")
