import json

import pytest
import torch
from detectron2.structures import Boxes, Instances

from gridclip.data import open_dataset
from gridclip.data.old_names import add_old_names

NAMES = ("old cat", "old dog", "old fox", "zebra")  # the last is one of the file's


def found(*rows):
    """Detections: (class, score, x0, y0, x1, y1) each."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    fields = dict(scores=table[:, 1], pred_classes=table[:, 0].long())
    return Instances((100, 100), pred_boxes=Boxes(table[:, 2:]), **fields)


DETECTIONS = {
    1: found(
        (3, 0.95, 10, 10, 30, 30),  # the file's own name
        (0, 0.9, 11, 10, 30, 30),  # on the box of the zebra
        (0, 0.8, 50, 50, 90, 90),
        (1, 0.7, 50, 51, 90, 90),  # the second name of the same object
        (2, 0.05, 0, 0, 9, 9),
    ),
    2: found(),
}


@pytest.fixture
def dataset():
    size = {"width": 100, "height": 100}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", **size} for i in (1, 2)],
        "categories": [{"id": 4, "name": "zebra"}, {"id": 7, "name": "new_ox"}],
        "annotations": [
            {"id": 3, "image_id": 1, "category_id": 4, "bbox": [10, 10, 20, 20]},
            {"id": 5, "image_id": 2, "category_id": 7, "bbox": [0, 0, 50, 50]},
        ],
    }


def add(dataset, **scores):
    return add_old_names(dataset, NAMES, lambda image: DETECTIONS[image["id"]], **scores)


def test_found_absent_and_unknown(dataset, tmp_path):
    before = json.dumps(dataset)
    result = add(dataset)
    assert json.dumps(dataset) == before
    names = ["zebra", "new_ox", "old cat", "old dog", "old fox"]
    assert [(c["id"], c["name"]) for c in result["categories"]] == list(
        zip((4, 7, 8, 9, 10), names, strict=True)
    )
    assert result["annotations"][:2] == dataset["annotations"]
    (box,) = result["annotations"][2:]
    assert box == {"id": 6, "image_id": 1, "category_id": 8, "bbox": [50.0, 50.0, 40.0, 40.0]}
    # In the first picture the dog is possible, so unknown; the fox is not.
    lists = [(i["neg_category_ids"], i["not_exhaustive_category_ids"]) for i in result["images"]]
    assert lists == [([7, 10], [8]), ([4, 8, 9, 10], [])]
    path = tmp_path / "train.json"
    path.write_text(json.dumps(result))
    data = open_dataset(json=path, images=tmp_path)
    assert data.federated and len(data.annotations.boxes) == 3


def test_scores_decide(dataset):
    result = add(dataset, sure=0.85, possible=0.75)
    assert len(result["annotations"]) == 2
    assert result["images"][0]["neg_category_ids"] == [7, 9, 10]


def test_a_name_without_boxes_in_the_file_is_old(dataset):
    """As in an export that lists all names; others without boxes stay unknown."""
    dataset["categories"] += [{"id": 9, "name": "old_cat"}, {"id": 12, "name": "unseen"}]
    result = add(dataset)
    assert result["annotations"][2]["category_id"] == 9
    assert [i["neg_category_ids"] for i in result["images"]] == [[7, 14], [4, 9, 13, 14]]


def test_lists_of_a_federated_file_stay(dataset):
    for image in dataset["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": [4]}
    result = add(dataset)
    lists = [(i["neg_category_ids"], i["not_exhaustive_category_ids"]) for i in result["images"]]
    assert lists == [([10], [4, 8]), ([8, 9, 10], [4])]


def test_scores_in_the_wrong_order_are_refused(dataset):
    with pytest.raises(ValueError, match="possible=0.5 and sure=0.4"):
        add(dataset, possible=0.5)
