"""Rules of the layout. `make lint` checks those between packages; here are the others."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
PRODUCT = sorted((ROOT / "projects/GridCLIP/gridclip").rglob("*.py"))


def imported_packages(path: Path) -> set[str]:
    """Top-level names that a file imports absolutely, wherever in the file that is written."""

    def names() -> Iterator[str]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module

    return {name.partition(".")[0] for name in names()}


def count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def importers(paths: list[Path], packages: set[str]) -> dict[str, set[str]]:
    """Those of ``paths`` that import any of ``packages``, with the packages they import."""
    found = {relative(path): imported_packages(path) & packages for path in paths}
    return {name: packages for name, packages in found.items() if packages}


def longer_than(limit: int, paths: list[Path]) -> dict[str, int]:
    lines = {relative(path): count_lines(path) for path in paths}
    return {name: count for name, count in lines.items() if count > limit}


def test_no_script_imports_another():
    assert importers(SCRIPTS, {script.stem for script in SCRIPTS}) == {}


def test_the_product_imports_neither_the_drawn_world_nor_the_measurements():
    assert importers(PRODUCT, {"laptop_world", "benchmark"}) == {}


def test_no_file_is_too_long_to_read():
    assert longer_than(400, sorted((ROOT / "projects").rglob("*.py"))) == {}
    assert longer_than(150, SCRIPTS) == {}


def test_the_product_is_read_in_three_sittings():
    """The method and its training; data of one's own and what is refused; use: predictor, videos,
    labels, reports, export. A change of it that needs more lines raises the bound."""
    assert sum(map(count_lines, PRODUCT)) <= 14_420


def read_project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read_yaml(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_citation_names_this_version():
    citation, project = read_yaml("CITATION.cff"), read_project()
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]


def test_the_workflow_runs_every_promised_python():
    project, workflow = read_project(), read_yaml(".github/workflows/ci.yml")
    promised = [
        name.removeprefix("Programming Language :: Python :: ") for name in project["classifiers"]
    ]
    assert workflow["jobs"]["lint-and-test"]["strategy"]["matrix"]["python"] == promised
    assert project["requires-python"] == f">={promised[0]}"


def test_imports_are_found_wherever_they_are_written(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("import a.b, c\nfrom d.e import f\nfrom . import g\ndef h():\n    import i\n")
    assert imported_packages(path) == {"a", "c", "d", "i"}
