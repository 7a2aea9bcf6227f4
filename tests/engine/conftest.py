import pytest

from world import tiny_config


@pytest.fixture
def world_config(world, tiny_clip, tmp_path):
    """Makes the production config at a very small size, on the drawn data set."""

    def make(**train):
        return tiny_config(world, tiny_clip, tmp_path / "output", **train)

    return make
