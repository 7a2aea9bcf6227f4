"""The description of a data set, with the inputs that people bring."""

import copy
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, load_lvis_json, register_coco_instances
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.data.detection_utils import get_fed_loss_cls_weights
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gridclip.data import (
    DatasetError,
    all_records,
    federated_weights,
    open_dataset,
    training_records,
)
from gridclip.data import annotations as annotations_module
from gridclip.data.datasets import _describe_json

CATEGORIES = {3: "cup", 10: "zebra", 17: "traffic_light"}


def coco(**changes):
    """COCO's format, boxes only, ids with gaps: what most tools export."""
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 60, "height": 40} for i in (7, 5, 9)
        ],
        "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
        "annotations": [
            box(5, 3, [1, 2, 10, 20]),
            box(5, 10, [0, 0, 30, 30]),
            box(7, 10, [5, 5, 20, 20]),
            box(7, 17, [9, 9, 5, 5]),
        ],
    } | changes


def box(image_id, category_id, bbox, **more):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, **more}


def lvis(**changes):
    """LVIS's format with ids 3, 10, 17; image 9 is verified to show no traffic light."""
    dataset = coco()
    for image in dataset["images"]:
        image["neg_category_ids"] = [17] if image["id"] == 9 else []
        image["not_exhaustive_category_ids"] = [10] if image["id"] == 5 else []
    return dataset | changes


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in (5, 7, 9):
        Image.new("RGB", (60, 40)).save(folder / f"{i}.jpg")
    return folder


@pytest.fixture
def opened(tmp_path, pictures):
    def opened(dataset, **arguments):
        path = tmp_path / "mine.json"
        path.write_text(dataset if isinstance(dataset, str) else json.dumps(dataset))
        return open_dataset(json=str(path), images=str(pictures), **arguments)

    return opened


@pytest.fixture
def catalog():
    """Registers functions; takes them out again."""
    names = []

    def register(name, load, **metadata):
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(**metadata)
        names.append(name)

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def notes(data):
    return {finding.what: finding for finding in data.findings.items}


def test_a_plain_coco_file(opened, pictures):
    data = opened(coco())
    assert data.name == "mine.json" and data.metrics == "coco" and not data.federated
    assert data.names == ("cup", "zebra", "traffic light") and data.category_ids == (3, 10, 17)
    assert data.image_counts.tolist() == [1, 2, 1]
    assert data.novel_classes is None and federated_weights(data) is None
    data.check_pictures()
    records = all_records(data)
    assert [r["image_id"] for r in records] == [5, 7, 9]  # ascending, as detectron2's
    assert records[1]["file_name"] == str(pictures / "7.jpg")
    assert [a["category_id"] for a in records[1]["annotations"]] == [1, 2]
    assert records[2]["annotations"] == []
    assert len(training_records(data)) == 2
    assert len(training_records(data, filter_empty=False)) == 3
    assert "negative_classes" not in training_records(data)[0]  # everything else is absent


def test_records_are_detectron2s(opened, tmp_path, pictures, catalog):
    dataset = coco()
    for i, annotation in enumerate(dataset["annotations"]):
        annotation |= {"id": i + 1, "iscrowd": int(i == 3), "area": 9.5, "segmentation": []}
    data = opened(dataset)
    expected = load_coco_json(str(tmp_path / "mine.json"), str(pictures), "expected_v0")
    MetadataCatalog.remove("expected_v0")
    assert len(expected) == len(all_records(data))
    for record, own in zip(expected, all_records(data), strict=True):
        assert {k: v for k, v in own.items()} == record
    assert data.annotations.areas.tolist() == [9.5] * 4


def test_genuine_files_as_detectron2_reads_them(mini_datasets):
    """Detectron2's own lists of the photographs, LVIS's and COCO's, but for the polygons."""
    for name, load in (("lvis_v1_train", load_lvis_json), ("coco_2017_train", load_coco_json)):
        data = open_dataset(dataset=name)
        metadata = MetadataCatalog.get(name)
        records = load(metadata.json_file, metadata.image_root)
        assert len(records) == len(data) == 128
        to_class = {i: c for c, i in enumerate(data.category_ids)}
        for record, own in zip(records, all_records(data), strict=True):
            assert own["file_name"] == record["file_name"]
            assert own["image_id"] == record["image_id"]
            for a, b in zip(record["annotations"], own["annotations"], strict=True):
                category = (
                    a["category_id"] if name.startswith("lvis") else to_class[a["category_id"]]
                )
                assert (a["bbox"], category) == (b["bbox"], b["category_id"])
            if name.startswith("lvis"):
                assert own["negative_classes"].tolist() == [
                    i - 1 for i in record["neg_category_ids"]
                ]
        assert data.missing_pictures == []
        assert data.federated == name.startswith("lvis")
    assert open_dataset(dataset="lvis_v1_train") is open_dataset(dataset="lvis_v1_train")


def test_polygons_are_never_kept(opened):
    dataset = coco()
    dataset["annotations"][0]["segmentation"] = [[float(i) for i in range(2000)]]
    annotation = all_records(opened(dataset))[0]["annotations"][0]
    assert set(annotation) <= {"bbox", "bbox_mode", "category_id", "iscrowd"}


def test_ids_of_lvis_lists_are_mapped(opened):
    data = opened(lvis())
    assert data.federated and data.metrics == "lvis"
    records = all_records(data)
    assert records[2]["negative_classes"].tolist() == [2]
    assert records[0]["not_exhaustive_classes"].tolist() == [1]


@pytest.mark.parametrize("dataset", [coco(), lvis()], ids=["complete", "federated"])
def test_novel_categories_have_no_boxes_no_weight_and_are_no_negatives(opened, dataset):
    data = opened(dataset, novel=["zebra", "traffic_light"])
    assert data.novel_classes == (1, 2) and data.base_classes == [0]
    records = training_records(data, filter_empty=False)
    classes = {a["category_id"] for record in records for a in record["annotations"]}
    assert classes == {0}
    for record in records:
        assert not {1, 2} & set(record["negative_classes"].tolist())
        assert not {1, 2} & set(record.get("not_exhaustive_classes", np.array([])).tolist())
    if not data.federated:
        # Without a list, every other category would count as absent, novel ones too.
        assert [record["negative_classes"].tolist() for record in records] == [[0]] * 3
    else:
        assert federated_weights(data).tolist() == [1, 0, 0]
    assert len(all_records(data)[1]["annotations"]) == 2  # evaluation keeps them


def test_federated_weights_are_detectron2s(mini_datasets, catalog):
    data = open_dataset(dataset="lvis_v1_train")
    counts = [{"id": i + 1, "image_count": int(n)} for i, n in enumerate(data.image_counts)]
    catalog("counted_v1", list, class_image_count=counts)
    expected = get_fed_loss_cls_weights("counted_v1", freq_weight_power=0.5)
    torch.testing.assert_close(federated_weights(data), expected, rtol=0, atol=0)


def test_rare_categories_of_lvis(mini_datasets):
    data = open_dataset(dataset="lvis_v1_train", novel="rare")
    frequency = {c["id"] - 1: c["frequency"] for c in LVIS_CATEGORIES}
    assert len(data.novel_classes) == 337
    assert {frequency[i] for i in data.novel_classes} == {"r"}
    weights = federated_weights(data)
    assert (weights[list(data.novel_classes)] == 0).all() and weights.shape == (1203,)


IDS = st.lists(st.integers(0, 4), max_size=5)


@given(st.lists(st.tuples(IDS, IDS, IDS), min_size=1, max_size=4), st.sets(st.integers(0, 3)))
def test_novel_categories_are_gone_and_nothing_else_is(tmp_path_factory, images, novel):
    names = [f"thing {i}" for i in range(5)]
    folder = tmp_path_factory.mktemp("split")
    dataset = {
        "categories": [{"id": 10 * i, "name": name} for i, name in enumerate(names)],
        "images": [
            {
                "id": i,
                "file_name": f"{i}.jpg",
                "width": 9,
                "height": 9,
                "neg_category_ids": [10 * c for c in negative],
                "not_exhaustive_category_ids": [10 * c for c in partial],
            }
            for i, (_, negative, partial) in enumerate(images)
        ],
        # The first is never novel: there is something to train on.
        "annotations": [box(0, 40, [0, 0, 2, 2])]
        + [box(i, 10 * c, [1, 1, 2, 2]) for i, (own, _, _) in enumerate(images) for c in own],
    }
    (folder / "a.json").write_text(json.dumps(dataset))
    data = open_dataset(
        json=folder / "a.json", images=folder, novel=[names[i] for i in sorted(novel)]
    )
    records = training_records(data, filter_empty=False)
    for i, ((own, negative, partial), record) in enumerate(zip(images, records, strict=True)):
        own = [4, *own] if i == 0 else own
        kept = [a["category_id"] for a in record["annotations"]]
        assert kept == [c for c in own if c not in novel]
        assert record["negative_classes"].tolist() == [c for c in negative if c not in novel]
        assert record["not_exhaustive_classes"].tolist() == [c for c in partial if c not in novel]


def test_pictures_of_lvis_are_found_by_url_and_by_name(opened, pictures):
    dataset = lvis()
    (pictures / "train2017").mkdir()
    for image in dataset["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{image['id']}.jpg"
    assert all_records(opened(dataset))[0]["file_name"] == str(pictures / "5.jpg")
    for i in (5, 7, 9):
        (pictures / f"{i}.jpg").rename(pictures / "train2017" / f"{i}.jpg")
    data = opened(dataset | {"info": "read anew"})
    assert all_records(data)[0]["file_name"] == str(pictures / "train2017/5.jpg")
    data.check_pictures()


def test_missing_pictures_are_named_with_where_they_may_be(opened, pictures):
    (pictures / "deeper").mkdir()
    (pictures / "7.jpg").rename(pictures / "deeper/7.jpg")
    with pytest.raises(FileNotFoundError, match=r"1 of the 3 pictures .*7\.jpg.*deeper/7\.jpg"):
        opened(coco()).check_pictures()


def test_roboflows_root_is_reported_and_left_out_on_request(opened):
    dataset = coco()
    dataset["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    data = opened(dataset)
    assert data.names[0] == "animals"
    assert "'animals' (id 0)" in notes(data)["category without boxes"].first
    for left_out in (["animals"], [0]):
        data = opened(dataset, leave_out=left_out)
        assert data.names == ("cup", "zebra", "traffic light")
        assert [a["category_id"] for a in all_records(data)[0]["annotations"]] == [0, 1]
    with pytest.raises(DatasetError, match="leave_out names no category: 'animal': there are"):
        opened(dataset, leave_out=["animal"])


def test_a_category_with_boxes_is_left_out_on_request(opened):
    data = opened(lvis(), leave_out=["traffic light"])
    assert data.names == ("cup", "zebra") and len(data.annotations.boxes) == 3
    assert all_records(data)[2]["negative_classes"].tolist() == []
    assert notes(data)["box of a category that is left out on request"].count == 1


def test_two_categories_of_one_name(opened):
    dataset = coco()
    dataset["categories"].append({"id": 0, "name": "Cup"})
    with pytest.raises(DatasetError, match=r"of one name: 'Cup' \(ids 0, 3\).*leave_out='\[0\]'"):
        opened(dataset)
    assert opened(dataset, leave_out=[0]).names[0] == "cup"


def test_ids_from_0_and_fields_of_other_tools(opened):
    dataset = coco(info=None, licenses=[], videos=3)
    dataset["categories"] = [{"id": i, "name": n, "color": 1} for i, n in enumerate("abc")]
    for annotation in dataset["annotations"]:
        annotation |= {"category_id": 0, "attributes": {"occluded": False}, "id": None}
    data = opened(dataset)
    assert data.names == ("a", "b", "c") and data.image_counts.tolist() == [2, 0, 0]


def test_missing_areas_are_width_times_height(opened):
    dataset = coco()
    dataset["annotations"][1]["area"] = 55
    data = opened(dataset)
    assert data.annotations.areas.tolist() == [200, 55, 400, 25]
    assert notes(data)["box without an area above 0"].count == 3


def many_boxes(*odd):
    """Fifty good boxes and odd ones, which may be left out."""
    return coco(annotations=[*odd, *(box(5, 3, [1, 1, 9, 9]) for _ in range(50))])


@pytest.mark.parametrize(
    "bbox",
    [
        [1, 2, float("nan"), 4],
        [1, 2, 3],
        None,
        [1, 2, "3", 4],
        [0, 0, float("inf"), 1],
        [1, 1, 10**400, 2],
        [True, True, True, True],
    ],
)
def test_a_malformed_box_is_left_out_and_named(opened, bbox):
    data = opened(many_boxes(box(7, 10, bbox)))
    found = notes(data)["box that is not four finite numbers"]
    assert (found.count, found.action) == (1, "left out")
    assert found.first.startswith("box 0 (image 7, category 10): ")
    assert len(data.annotations.boxes) == 50


BOXES = st.lists(
    st.one_of(st.integers(-90, 90), st.floats(-90, 90), st.sampled_from([10**9, 10**400, -1e9])),
    min_size=4,
    max_size=4,
)


@given(st.lists(st.one_of(BOXES, st.just([1, 1, 9, 9])), min_size=1, max_size=30))
def test_boxes_checked_together_are_as_those_checked_one_by_one(tmp_path_factory, boxes):
    path = tmp_path_factory.mktemp("data") / "data.json"
    path.write_text(json.dumps(many_boxes(*(box(7, 10, bbox) for bbox in boxes))))
    outcomes = []
    for one_by_one in (False, True):
        _describe_json.cache_clear()
        with pytest.MonkeyPatch.context() as patched:
            if one_by_one:
                nothing_is_sure = lambda boxes, *_: np.zeros(len(boxes), bool)  # noqa: E731
                patched.setattr(annotations_module, "_surely_good", nothing_is_sure)
                patched.setattr(annotations_module, "_unless_all_in", lambda _, __, items: items)
            try:
                data = open_dataset(json=path, images=path.parent)
                outcomes.append((data.annotations.boxes.tolist(), str(data.findings)))
            except ValueError as error:
                outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_records_without_boxes(opened):
    data = opened(lvis())
    whole, without = (all_records(data, boxes=boxes) for boxes in (True, False))
    assert len(whole) == len(without)
    for a, b in zip(whole, without, strict=True):
        assert a.pop("annotations") is not None and a.keys() == b.keys()
        assert (a["image_id"], a["file_name"]) == (b["image_id"], b["file_name"])


@pytest.mark.parametrize("bbox", [[60, 2, 5, 4], [1, -9, 3, 9], [-500, 500, 2, 2]])
def test_a_box_outside_its_picture_is_left_out_and_named(opened, bbox):
    found = notes(opened(many_boxes(box(7, 10, bbox))))["box outside its picture"]
    assert found.first == f"box 0 (image 7, category 10): {bbox}"


@pytest.mark.parametrize("bbox", [[1, 2, 0, 4], [1, 2, 3, -4]])
def test_an_empty_box_is_left_out_and_named(opened, bbox):
    found = notes(opened(many_boxes(box(7, 10, bbox))))["box without width or height"]
    assert found.first == f"box 0 (image 7, category 10): {bbox}"


def test_boxes_of_another_format_are_refused(opened):
    with pytest.raises(DatasetError, match="are they"):
        opened(coco(annotations=[box(5, 3, [1, 2, 3]), box(5, 3, [1, 2, 3, 4])]))
    shares = [box(5, 3, [0.1, 0.2, 0.3, 0.4])] * 3
    with pytest.raises(DatasetError, match="between 0 and 1: .*give pixels"):
        opened(coco(annotations=shares))
    corners = [box(5, 3, [30, 20, 55, 39])] * 3
    with pytest.raises(DatasetError, match=r"reaches out of its picture: image 5: .*\[x, y, w"):
        opened(coco(annotations=corners))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["categories"][1].update(frequency="x"), "category 10 'zebra' has freq.* 'x'"),
        (lambda d: d["annotations"][2].update(image_id=70), "image 70; ids of that kind are like"),
        (lambda d: d["annotations"][2].update(image_id="7"), "image '7'; ids of that kind"),
        (lambda d: d["annotations"][2].update(category_id=2), "category 2; ids of that kind"),
        (lambda d: d["annotations"][2].update(category_id=True), "category True"),
        (
            lambda d: d["images"].append({**d["images"][0], "width": 61}),
            "two images of one id: .*7",
        ),
        (lambda d: d["images"][0].update(id="7"), "image ids of two types: image '7'"),
        (lambda d: d["images"][0].update(id=7.0), "neither integer nor string: image 7.0"),
        (lambda d: d["images"][0].update(width=None), "image 7: None x 40"),
        (lambda d: d["images"][0].pop("file_name"), "image without file_name: image 7"),
        (lambda d: d["categories"][0].update(name=" "), "category 3"),
        (lambda d: d["categories"][0].update(id="3"), "category '3'"),
        (lambda d: d["categories"][0].update(id=10), "occurs twice: category 10"),
        (lambda d: d.update(categories=[]), "no categories"),
        (lambda d: d["images"][0].update(width=10**30), "image 7: 1000000"),
        (lambda d: d["annotations"][2].update(iscrowd="0"), "neither 0 nor 1: '0'"),
        (lambda d: d.update(images=[]), "no pictures"),
    ],
)
def test_what_can_not_be_put_right_is_refused(opened, change, message):
    dataset = coco()
    change(dataset)
    with pytest.raises(DatasetError, match=message) as error:
        opened(dataset)
    assert "mine.json can't be used as it is" in str(error.value)


def test_all_faults_are_told_at_once(opened):
    dataset = coco()
    dataset["annotations"][0]["image_id"] = 70
    dataset["annotations"][1]["category_id"] = 2
    with pytest.raises(DatasetError, match="(?s)image that is not listed.*category that is not"):
        opened(dataset)


def test_lists_of_some_images_only_are_refused(opened):
    dataset = lvis()
    del dataset["images"][1]["neg_category_ids"]
    with pytest.raises(DatasetError, match="without neg_category_ids, which others have: image 5"):
        opened(dataset)
    dataset = lvis()
    dataset["images"][2]["neg_category_ids"] = [2]
    with pytest.raises(DatasetError, match="neg_category_ids that is not listed: image 9 has 2"):
        opened(dataset)


def test_the_same_image_listed_twice_counts_once(opened):
    dataset = coco()
    dataset["images"].append(copy.deepcopy(dataset["images"][0]))
    data = opened(dataset)
    assert len(data) == 3 and notes(data)["image listed twice"].first == "image 7"


def test_image_ids_may_be_strings(opened):
    dataset = coco()
    for record in (*dataset["images"], *dataset["annotations"]):
        key = "id" if "file_name" in record else "image_id"
        record[key] = f"picture {record[key]}"
    data = opened(dataset)
    assert data.annotations.image_ids == ("picture 5", "picture 7", "picture 9")


def test_a_test_set_without_annotations(opened):
    dataset = coco()
    del dataset["annotations"]
    data = opened(dataset)
    assert not data.annotations.available and "annotations" not in all_records(data)[0]
    with pytest.raises(ValueError, match="no annotations: there is nothing to train on"):
        training_records(data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not an annotation file"),
        ('{"images": [', "not an annotation file"),
        ("[]", "Expected `object`, got `array`"),
        ('{"images": [], "annotations": []}', "missing required field `categories`"),
        (
            '{"images": [{}], "categories": []}',
            r"missing required field `id` - at `\$.images\[0\]`",
        ),
    ],
)
def test_other_files_are_refused_by_name(opened, content, message):
    with pytest.raises(ValueError, match=f"mine.json is not an .*{message}|mine.json.*{message}"):
        opened(content)


def test_novel_by_name_by_file_or_rare(opened, tmp_path):
    dataset = coco()
    (tmp_path / "novel.txt").write_text("traffic light\ncup\n")
    assert opened(dataset, novel=str(tmp_path / "novel.txt")).novel_classes == (0, 2)
    with pytest.raises(DatasetError, match='novel="rare", but .* no "frequency"'):
        opened(dataset, novel="rare")
    with pytest.raises(DatasetError, match="'zebras', which is none of the 3 .*mean 'zebra'"):
        opened(dataset, novel=["zebras"])
    with pytest.raises(ValueError, match=r"neither a file of names nor .*novel='\[zebra\]'"):
        opened(dataset, novel="zebra")
    for category, frequency in zip(dataset["categories"], "rcf", strict=True):
        category["frequency"] = frequency
    data = opened(dataset, novel="rare")
    assert data.novel_classes == (0,) and data.frequencies == ("r", "c", "f")
    with pytest.raises(ValueError, match="All categories .* are novel"):
        training_records(opened(dataset, novel=list(CATEGORIES.values())))


def test_groups_of_categories(opened):
    data = opened(coco(), groups={"street": ["traffic light"], "animals": ["zebra"]})
    assert data.groups == {"street": (2,), "animals": (1,)}
    with pytest.raises(DatasetError, match="groups.x has 'dog'"):
        opened(coco(), groups={"x": ["dog"]})


def test_lists_of_names_are_lists(opened):
    for wrong in (dict(leave_out="cup"), dict(groups={"a": "cup"})):
        with pytest.raises(ValueError, match=r"is 'cup': write names as a list, .*='\[cup\]'"):
            opened(coco(), **wrong)
    with pytest.raises(ValueError, match=r"novel has \['zebra'\], which is no name"):
        opened(coco(), novel=[["zebra"]])
    with pytest.raises(DatasetError, match="all are left out"):
        opened(coco(), leave_out=list(CATEGORIES))


def test_sizes_that_are_whole_floats(opened):
    dataset = coco()
    dataset["images"][0] |= {"width": 60.0, "height": 40.0}
    assert opened(dataset).annotations.sizes.tolist() == [[60, 40]] * 3


def test_areas_of_nothing(opened):
    dataset = coco()
    for annotation, area in zip(dataset["annotations"], (0, -5, 10**400, "9"), strict=True):
        annotation["area"] = area
    data = opened(dataset)
    assert data.annotations.areas.tolist() == [200, 900, 400, 25]
    assert notes(data)["box without an area above 0"].count == 4


def test_arguments_open_the_same_data_set(opened):
    data = opened(coco(), novel=["zebra"], leave_out=[3])
    again = open_dataset(**json.loads(json.dumps(data.arguments)))
    assert (again.names, again.novel_classes) == (data.names, data.novel_classes)


def test_one_file_is_read_once_and_again_when_it_changed(opened, tmp_path, monkeypatch):
    first = opened(coco())
    assert open_dataset(json=str(tmp_path / "mine.json"), images=first.root) is first
    changed = opened(coco(annotations=[]) | {"info": "longer than before"})
    assert changed is not first and changed.sha256 != first.sha256


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="give a file and a folder"):
        open_dataset()
    with pytest.raises(ValueError, match="give a file and a folder"):
        open_dataset(json="a.json")
    with pytest.raises(ValueError, match="No data set 'lvis_v1_trian' .*lvis_v1_train"):
        open_dataset(dataset="lvis_v1_trian")
    with pytest.raises(ValueError, match="metrics is 'voc': take one of coco, lvis"):
        open_dataset(json="a.json", images=".", metrics="voc")
    with pytest.raises(FileNotFoundError, match=r"'a\.json' are not at .*a\.json\. Make it\."):
        open_dataset(json=tmp_path / "a.json", images=".", hint="Make it.")
    register_coco_instances("absent_v0", {}, str(tmp_path / "nothing.json"), ".")
    try:
        with pytest.raises(FileNotFoundError, match=r"nothing\.json.*DETECTRON2_DATASETS"):
            open_dataset(dataset="absent_v0")
    finally:
        DatasetCatalog.remove("absent_v0")
        MetadataCatalog.remove("absent_v0")


def test_a_data_set_registered_from_a_function(catalog, pictures):
    def load():
        boxes = [{"bbox": [1, 2, 11, 22], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}]
        common = {"width": 60, "height": 40}
        return [
            {
                "file_name": str(pictures / "5.jpg"),
                "image_id": "five",
                "annotations": boxes,
                **common,
            },
            {
                "file_name": str(pictures / "7.jpg"),
                "image_id": "seven",
                "annotations": [],
                **common,
            },
        ]

    catalog("function_v0", load, thing_classes=["cup", "zebra"])
    data = open_dataset(dataset="function_v0", novel=["cup"])
    assert data.metrics == "coco" and data.category_ids == (0, 1)
    assert data.annotations.boxes.tolist() == [[1, 2, 10, 20]]
    data.check_pictures()
    records = training_records(data, filter_empty=False)
    assert [r["image_id"] for r in records] == ["five", "seven"]
    assert records[0]["negative_classes"].tolist() == [1]
    catalog("nameless_v0", load)
    with pytest.raises(ValueError, match="'nameless_v0' has no names.*thing_classes"):
        open_dataset(dataset="nameless_v0")


def test_odd_records_of_a_function(catalog, pictures):
    def record(**annotation):
        own = {"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
        return {
            "file_name": str(pictures / "5.jpg"),
            "image_id": np.int64(5),
            "width": np.int32(60),
            "height": 40,
            "annotations": [own | annotation],
        }

    def described(*records, **metadata):
        name = f"odd_{len(MetadataCatalog.list())}_{id(records)}"
        catalog(name, lambda: list(records), **({"thing_classes": ["cup"]} | metadata))
        return open_dataset(dataset=name)

    data = described(record(bbox=np.array([1.0, 2, 3, 4])))
    assert data.annotations.boxes.tolist() == [[1, 2, 3, 4]] and data.annotations.image_ids == (5,)
    without = {**record(), "image_id": 6, "annotations": None}
    assert described(record(), without).image_counts.tolist() == [1]
    with pytest.raises(DatasetError, match="category 'class 3'"):
        described(record(category_id=3))
    with pytest.raises(ValueError, match="has boxes that can't be used"):
        described(record(bbox_mode=BoxMode.XYWH_REL))
    with pytest.raises(DatasetError, match="not four finite numbers: box 0 "):
        described(record(bbox=[1, 2, 3]))
    with pytest.raises(ValueError, match="has 1 names, and its .* maps to 2 classes"):
        described(record(), thing_dataset_id_to_contiguous_id={1: 0, 2: 1})


def test_lvis_records_registered_from_a_function(catalog, pictures):
    """load_lvis_json leaves the ids of its lists as they are, which count from 1."""
    record = {
        "file_name": str(pictures / "5.jpg"),
        "image_id": 1,
        "width": 60,
        "height": 40,
        "annotations": [{"bbox": [1, 1, 9, 9], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}],
        "neg_category_ids": [3],
        "not_exhaustive_category_ids": [],
    }
    catalog("function_v1", lambda: [record], thing_classes=["a", "b", "c"])
    data = open_dataset(dataset="function_v1")
    assert all_records(data)[0]["negative_classes"].tolist() == [2]
    mapped = {**record, "neg_category_ids": [17]}
    mapping = {3: 0, 10: 1, 17: 2}
    names = ["a", "b", "c"]
    catalog(
        "function_v2",
        lambda: [mapped],
        thing_classes=names,
        thing_dataset_id_to_contiguous_id=mapping,
    )
    data = open_dataset(dataset="function_v2")
    assert all_records(data)[0]["negative_classes"].tolist() == [2]
    assert data.category_ids == (3, 10, 17)
