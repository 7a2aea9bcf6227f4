import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.data.detection_utils import get_fed_loss_cls_weights
from hypothesis import given
from hypothesis import strategies as st

from gridclip.data import LVIS_V1_RARE, register_base_split, remove_novel_categories
from gridclip.data.datasets import check_annotations_exist

IDS = st.lists(st.integers(0, 9), max_size=5)


def record(image_id, classes, negative=(), not_exhaustive=()):
    return {
        "image_id": image_id,
        "annotations": [{"bbox": [0, 0, 1, 1], "category_id": c} for c in classes],
        "neg_category_ids": [c + 1 for c in negative],
        "not_exhaustive_category_ids": [c + 1 for c in not_exhaustive],
    }


def test_lvis_has_337_rare_categories():
    assert len(LVIS_V1_RARE) == 337
    frequency = {c["id"] - 1: c["frequency"] for c in LVIS_CATEGORIES}
    assert {frequency[i] for i in LVIS_V1_RARE} == {"r"}


@given(st.lists(st.tuples(IDS, IDS, IDS), max_size=4), st.sets(st.integers(0, 9)))
def test_novel_categories_are_gone_and_nothing_else_is(images, novel):
    records = [record(i, *classes) for i, classes in enumerate(images)]
    before = [record(i, *classes) for i, classes in enumerate(images)]
    filtered = remove_novel_categories(records, novel)
    assert records == before
    for (classes, negative, partial), kept in zip(images, filtered, strict=True):
        assert [a["category_id"] for a in kept["annotations"]] == [
            c for c in classes if c not in novel
        ]
        assert kept["neg_category_ids"] == [c + 1 for c in negative if c not in novel]
        assert kept["not_exhaustive_category_ids"] == [c + 1 for c in partial if c not in novel]


@pytest.fixture
def toy_split():
    names = ("toy_v1_source", "toy_v1_base")
    DatasetCatalog.register(names[0], lambda: [record(0, [0, 1, 2], [1], [2]), record(1, [2])])
    MetadataCatalog.get(names[0]).set(
        thing_classes=["a", "b", "c"],
        class_image_count=[{"id": i + 1, "image_count": n} for i, n in enumerate((5, 7, 9))],
    )
    register_base_split(names[1], names[0], [2])
    yield names[1]
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_registered_split_filters_and_keeps_the_vocabulary(toy_split):
    records = DatasetCatalog.get(toy_split)
    assert [[a["category_id"] for a in r["annotations"]] for r in records] == [[0, 1], []]
    assert records[0]["neg_category_ids"] == [2]
    assert records[0]["not_exhaustive_category_ids"] == []
    metadata = MetadataCatalog.get(toy_split)
    assert metadata.thing_classes == ["a", "b", "c"] and metadata.novel_classes == [2]


def test_novel_federated_weights_are_zero(toy_split):
    weights = get_fed_loss_cls_weights(toy_split, freq_weight_power=0.5)
    torch.testing.assert_close(weights, torch.tensor([5.0, 7.0, 0.0]).sqrt())
    # The source's own counts are not touched.
    assert get_fed_loss_cls_weights("toy_v1_source", 1.0).tolist() == [5, 7, 9]


def test_lvis_base_split_has_zero_weight_for_every_rare_category():
    weights = get_fed_loss_cls_weights("lvis_v1_train_base", freq_weight_power=0.5)
    assert (weights == 0).nonzero().flatten().tolist() == list(LVIS_V1_RARE)


def test_missing_annotations_are_named(monkeypatch, tmp_path):
    name = "missing_v1"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(json_file=str(tmp_path / "nothing.json"))
    with pytest.raises(FileNotFoundError, match=r"nothing\.json.*DETECTRON2_DATASETS"):
        check_annotations_exist(name)
    DatasetCatalog.remove(name)
    with pytest.raises(ValueError, match="registered"):
        check_annotations_exist(name)


def test_base_split_of_the_photographs(mini_datasets):
    source = DatasetCatalog.get("lvis_v1_train")
    base = DatasetCatalog.get("lvis_v1_train_base")
    rare = set(LVIS_V1_RARE)
    assert len(base) == len(source) == 128
    # These photographs show no rare category; only the lists could name one.
    assert sum(len(r["annotations"]) for r in base) == 927
    assert not any(i - 1 in rare for r in base for i in r["neg_category_ids"])
