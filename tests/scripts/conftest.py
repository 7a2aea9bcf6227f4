import pytest
from detectron2.data import DatasetCatalog


@pytest.fixture
def dataset(root, request):
    """The same pictures under a name of their own, for this process."""
    name = f"toy_{request.node.name}"
    records = [
        dict(file_name=str(file), image_id=int(file.stem), height=30, width=40)
        for file in sorted((root / "coco" / "train2017").iterdir())
    ]
    DatasetCatalog.register(name, lambda: records)
    yield name
    DatasetCatalog.remove(name)
