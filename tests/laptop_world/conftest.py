"""Fixtures of the experiment's tests."""

import pytest


@pytest.fixture
def whole_grid(tmp_path, monkeypatch):
    """The experiment's tasks on a tiny world; nothing is run."""
    from laptop_world import experiment, reproduce
    from laptop_world.shapes import generate_shapes

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    generate_shapes("test", tmp_path / "shapes", train=4, val=4, size=32)
    return experiment.Grid(reproduce.parse_args(["--output", str(tmp_path / "out")]))
