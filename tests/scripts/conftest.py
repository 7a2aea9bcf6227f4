import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

import precompute
from gridclip.data.embedding_store import EmbeddingStore
from gridclip.data.store import StoreError


@pytest.fixture
def dataset(root, request):
    """The same pictures under a name of their own, for this process."""
    name = f"toy_{request.node.name}"
    records = [
        dict(file_name=str(file), image_id=int(file.stem), height=30, width=40)
        for file in sorted((root / "coco" / "train2017").iterdir())
    ]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = ["thing"]
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture
def check_damaged_picture(root, capsys):
    """One picture of ``total`` is damaged while precompute.py fills a store, then mended."""

    def check(options, store, total):
        damaged = root / "coco" / "train2017" / f"{5:012}.jpg"
        data = damaged.read_bytes()
        damaged.write_bytes(data[:300])
        assert precompute.main(options) == 1
        printed = capsys.readouterr()
        assert f"{total - 1} of {total} images done" in printed.out
        assert "1 images failed" in printed.err and f"  5 {damaged}: " in printed.err
        with pytest.raises(StoreError, match="missing one is image id 5"):
            EmbeddingStore.open(store)
        damaged.write_bytes(data)
        assert precompute.main(options) == 0
        assert "this run: 1 images" in capsys.readouterr().out

    return check
