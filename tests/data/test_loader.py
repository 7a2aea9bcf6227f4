import itertools

import numpy as np
import pytest

from gridclip.data import build_train_loader, open_dataset, training_records
from gridclip.data.loader import _repeat_factors
from gridclip.files import write_json


def records(count=12):
    # Every third picture is upright; category 1 is in one picture only.
    return [
        {
            "index": i,
            "width": 4 if i % 3 else 2,
            "height": 3,
            "annotations": [{"category_id": 0}] + [{"category_id": 1}] * (i == 5),
        }
        for i in range(count)
    ]


def mapper(record):
    return {"index": record["index"], "upright": record["width"] < 3, "random": np.random.rand()}


def batches(count, start=0, **kwargs):
    loader = build_train_loader(
        records(), mapper=mapper, total_batch_size=4, **{"num_workers": 0, **kwargs}
    )
    loader.batch_sampler.start_iter = start
    return list(itertools.islice(iter(loader), count))


def test_batches_hold_one_orientation_and_every_image_comes():
    drawn = batches(12)
    assert all(len({x["upright"] for x in batch}) == 1 and len(batch) == 4 for batch in drawn)
    assert {x["index"] for batch in drawn for x in batch} == set(range(12))


def test_resuming_skips_what_was_seen():
    assert batches(10)[6:] == batches(4, start=6)


def test_workers_change_nothing():
    assert batches(6) == batches(6, num_workers=2)


def test_seed_sets_order_and_augmentation():
    assert batches(3) == batches(3)
    first, other = batches(3), batches(3, seed=1)
    assert [[x["index"] for x in b] for b in first] != [[x["index"] for x in b] for b in other]
    drawn = [x["random"] for b in batches(12) for x in b]
    assert len(set(drawn)) == len(drawn)  # the same picture gets another augmentation next time


def test_numpys_state_is_left_alone():
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    batches(2)
    assert np.random.rand() == expected


def test_ranks_share_the_batches_of_one_process(monkeypatch):
    whole = batches(5)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
        parts.append(batches(5))
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_unequal_ranks_are_refused(monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="total_batch_size"):
        batches(1)


def test_images_of_scarce_categories_come_more_often():
    # Category 1 is in 1 of 12 pictures: with threshold 1/3 it is repeated sqrt(4) = 2 times.
    drawn = [x["index"] for b in batches(120, repeat_threshold=1 / 3) for x in b]
    counts = np.bincount(drawn, minlength=12)
    others = np.delete(counts, 5).mean()
    assert 1.8 < counts[5] / others < 2.2


def test_a_description_is_sampled_as_its_records_are(tmp_path):
    """The sampler looks at outlines, detectron2's own at every box."""
    rng = np.random.default_rng(0)
    images = [
        {"id": i, "file_name": f"{i}.jpg", "width": 9 + i % 3, "height": 10} for i in range(50)
    ]
    boxes = [
        {"image_id": int(i), "category_id": int(c), "bbox": [1, 1, 4, 4], "iscrowd": int(i == 7)}
        for i, c in zip(rng.integers(0, 40, 150), rng.zipf(1.7, 150) % 9, strict=True)
    ]
    categories = [{"id": i, "name": f"thing {i}"} for i in range(9)]
    path = tmp_path / "data.json"
    write_json(path, {"images": images, "annotations": boxes, "categories": categories})
    data = open_dataset(json=path, images=tmp_path, novel=["thing 2"])
    records = training_records(data)[3:]
    plain = list(records)
    assert len(plain) < 40 - 3
    factors = _repeat_factors(records.outlines(), 0.3)
    assert factors.tolist() == _repeat_factors(plain, 0.3).tolist() and factors.max() > 1.5

    def drawn(dataset):
        loader = build_train_loader(
            dataset,
            mapper=lambda record: record["image_id"],
            total_batch_size=4,
            repeat_threshold=0.3,
            num_workers=0,
        )
        return list(itertools.islice(loader, 30))

    assert drawn(records) == drawn(plain)
