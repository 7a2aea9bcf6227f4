import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from world import draw_world, register_world, tiny_config


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Folder of the drawn data set, registered as world_train and world_base."""
    folder = tmp_path_factory.mktemp("world")
    register_world(folder, draw_world(folder))
    yield folder
    for name in ("world_train", "world_base"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def world_config(world, tiny_clip, tmp_path):
    """Makes the production config at a very small size, on the drawn data set."""

    def make(**train):
        return tiny_config(world, tiny_clip, tmp_path / "output", **train)

    return make
