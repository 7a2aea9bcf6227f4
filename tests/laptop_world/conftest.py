"""Fixtures of the experiment's tests."""

import pytest


@pytest.fixture(scope="session")
def tiny_shapes(tmp_path_factory):
    """The root of a test world of four pictures a split."""
    from laptop_world.shapes import generate_shapes

    root = tmp_path_factory.mktemp("tiny_shapes")
    generate_shapes("test", root / "shapes", train=4, val=4, size=32)
    return root


@pytest.fixture(scope="module")
def make_grid(tiny_shapes, tmp_path_factory):
    """Makes the tasks of reproduce's arguments on that world; nothing is run."""
    from laptop_world import experiment, reproduce

    def make(*arguments, output=None):
        output = output or tmp_path_factory.mktemp("grid")
        return experiment.Grid(reproduce.parse_args([*arguments, "--output", str(output)]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(tiny_shapes))
        yield make
