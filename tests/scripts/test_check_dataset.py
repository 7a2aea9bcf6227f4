"""check_dataset.py on small data sets with one of each fault."""

import json
import re

import numpy as np
import pytest
import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

import check_dataset
from gridclip.data import open_dataset
from gridclip.data.benchmarks import _BENCHMARKS, find_benchmark
from gridclip.data.inspection import inspect_dataset, size_at_test
from gridclip.text import TextEmbeddings
from pages import ROOT

NAMES = ["cat", "dog", "horse", "zebra"]
COCO_NAMES = [c["name"] for c in COCO_CATEGORIES if c["isthing"]]


@pytest.fixture
def draw(tmp_path):
    """Writes a sound data set in COCO's format: pictures of 64 x 48 px with a large box each, 12
    of each category. ``change`` may spoil the annotations before they are written."""

    def draw(name="train", change=lambda file: None, names=NAMES, seed=0):
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng(seed)
        images, annotations = [], []
        for i in range(1, 12 * len(names) + 1):
            Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(
                folder / f"{i:03}.jpg"
            )
            images.append(dict(id=i, width=64, height=48, file_name=f"{i:03}.jpg"))
            box = dict(id=i, image_id=i, category_id=1 + i % len(names), bbox=[4, 4, 40, 40])
            annotations.append(box | dict(area=1600, iscrowd=0))
        categories = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
        file = dict(images=images, annotations=annotations, categories=categories)
        change(file)
        (tmp_path / f"{name}.json").write_text(json.dumps(file))
        return folder, ["--json", str(tmp_path / f"{name}.json"), "--images", str(folder)]

    return draw


@pytest.fixture
def run(capsys):
    """Exit code and what is printed."""

    def run(*args):
        code = check_dataset.main([*args, "--num-workers", "0"])
        printed = capsys.readouterr()
        return code, printed.err + printed.out

    return run


def test_sound(draw, run):
    code, printed = run(*draw()[1])
    assert code == 0 and "Faults:\n  nothing" in printed
    assert "48 pictures, 48 boxes, 4 categories" in printed
    assert "cosine above 0.95: not checked" in printed
    assert printed.endswith("A training can use it.\n")


def test_pictures(draw, run, tmp_path):
    folder, args = draw()
    for number, keep in ((1, 400), (2, 0)):
        file = folder / f"{number:03}.jpg"
        file.write_bytes(file.read_bytes()[:keep])
    Image.new("RGB", (30, 20)).save(folder / "003.jpg")
    (folder / "004.jpg").unlink()
    Image.new("RGB", (64, 48), "red").save(folder / "beside.png")
    (folder / "006.jpg").write_bytes((folder / "005.jpg").read_bytes())
    code, printed = run(*args, "--list", str(tmp_path / "bad.txt"))
    assert code == 1 and printed.endswith("A training can't use it.\n")
    assert f"missing picture: {folder}/004.jpg: put it into {folder}" in printed
    assert f"unreadable picture: {folder}/001.jpg can't be read as a picture (OSError: " in printed
    assert f"{folder}/002.jpg can't be read as a picture (UnidentifiedImageError: " in printed
    assert f"{folder}/003.jpg: it is 30 x 20 px, the file says 64 x 48" in printed
    assert f"not list: {folder}/beside.png: not used" in printed
    assert f"copy of another picture: {folder}/006.jpg and {folder}/005.jpg: each" in printed
    assert "Pictures that can't be used, 4:" in printed
    listed = (tmp_path / "bad.txt").read_text().splitlines()
    assert [re.search(r"\d+\.jpg", line)[0] for line in listed] == [
        f"00{i}.jpg" for i in (4, 1, 2, 3)
    ]


def test_many_pictures_are_counted(draw, run):
    folder, args = draw()
    for file in folder.iterdir():
        file.unlink()
    code, printed = run(*args)
    assert code == 1 and printed.count(": missing\n") == 20 and "  and 28 more" in printed


def test_size_after_exif(draw, run):
    folder, args = draw(change=lambda file: file["images"][0].update(width=48, height=64))
    assert run(*args)[0] == 1
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    with Image.open(folder / "001.jpg") as picture:
        picture.save(folder / "001.jpg", exif=exif)
    assert run(*args)[0] == 0


def test_workers_find_the_same(draw, tmp_path):
    folder, (_, json_file, *_) = draw()
    (folder / "007.jpg").write_bytes(b"nothing")
    data = open_dataset(json=json_file, images=folder)
    one, two = (inspect_dataset(data, num_workers=n) for n in (1, 2))
    assert one.findings == two.findings and one.pictures == two.pictures
    assert one.digests == two.digests and len(one.digests) == 47 and not one.usable


def test_boxes(draw, run):
    def change(file):
        boxes = file["annotations"]
        boxes[0]["bbox"] = [1, 1, 0.5, 0.5]  # 8 px at test
        boxes[1]["bbox"] = [1, 1, 1.5, 1.5]  # 25 px
        for box in boxes[2:]:
            box["category_id"] = {2: 1}.get(box["category_id"], box["category_id"])
        boxes += [
            dict(id=100 + i, image_id=9, category_id=4, bbox=[0, 0, 40, 40]) for i in range(100)
        ]

    code, printed = run(*draw(change=change)[1])
    assert code == 0
    assert "box below 16 px a side at 800 x 1333: image 1, 'dog': 0.7% of all" in printed
    assert "box below 32 px a side at 800 x 1333: image 1, 'dog', and 1 more: 1.4%" in printed
    assert "category with fewer than 10 boxes: 'dog' (1): little" in printed
    assert "picture with more than 100 boxes: image 9 (101): an evaluation counts" in printed


def test_names(draw, run, tmp_path):
    rows = torch.eye(4)
    rows[3] = torch.nn.functional.normalize(rows[2] + 0.1 * rows[3], dim=0)
    file = tmp_path / "text.safetensors"
    TextEmbeddings(tuple(NAMES), rows, (), "made up", "").save(file)
    args = draw()[1]
    code, printed = run(*args, "--text-embeddings", str(file))
    assert code == 0 and "above 0.95: 'horse' and 'zebra' (0.995)" in printed
    TextEmbeddings(tuple(NAMES[:3]), rows[:3], (), "made up", "").save(file)
    printed = run(*args, "--text-embeddings", str(file))[1]
    assert "not checked, the text embeddings lack 'zebra'" in printed


def test_names_by_clip(draw, run, tiny_clip):
    assert "not checked" not in run(*draw()[1], "--clip", str(tiny_clip))[1]


def test_long_name(draw, run):
    long = " ".join(["cat"] * 80)
    code, printed = run(*draw(names=["dog", long])[1])
    assert code == 1 and f"tokens than CLIP's 77 with its prompt: '{long}'" in printed


def test_config(draw, run, tmp_path):
    train, _ = draw("train", seed=0)
    val, _ = draw("val", seed=1)
    (val / "007.jpg").write_bytes((train / "001.jpg").read_bytes())
    config = str(ROOT / "projects/GridCLIP/configs/custom/gridclip_r50.py")
    parts = [
        f"data.{part}.{key}"
        for part in ("train", "val")
        for key in (f"json={tmp_path}/{part}.json", f"images={tmp_path}/{part}")
    ]
    overrides = [*parts, "data.novel=[zebra]", f"train.output_dir={tmp_path}/out"]
    code, printed = run("--config-file", config, *overrides)
    assert code == 0 and "data.train: " in printed and "data.val: " in printed
    assert "4 categories, 1 of them novel" in printed
    assert f"1 pictures are in both, the first {train}/001.jpg and {val}/007.jpg" in printed

    code, printed = run("--config-file", config, *overrides, "data.train.json=none.json")
    assert code == 1 and "error: data.train: Annotations of 'none.json' are not at" in printed
    assert "data.val: " in printed

    with pytest.raises(SystemExit, match="error: All categories of .* are novel"):
        run("--config-file", config, *overrides, f"data.novel=[{','.join(NAMES)}]")


def test_size_of_the_config():
    assert size_at_test([dict(short_edge_length=640, max_size=1000)]) == (640, 1000)
    assert size_at_test([dict(short_edge_length=[480, 640])])[0] == 480
    assert size_at_test([]) is None


def test_no_annotations(draw, run):
    code, printed = run(*draw(change=lambda file: file.pop("annotations"))[1])
    assert code == 0 and "It can be evaluated without metrics: there are no annotations." in printed


def test_counts_of_a_benchmark(draw, run, tmp_path):
    known = _BENCHMARKS["coco_2017_val"]
    _, args = draw("instances_val2017", names=COCO_NAMES[:80])
    code, printed = run(*args)
    assert code == 0
    assert (
        f"counts beside those of {known.name}: 960 of 5,000 pictures, 960 of 36,781 boxes: a"
        in printed
    )


def test_counts_of_the_small_lvis(mini_datasets, run):
    args = ["--json", str(mini_datasets / "lvis/lvis_v1_train.json")]
    code, printed = run(*args, "--images", str(mini_datasets / "coco"))
    assert code == 0 and "128 of 100,170 pictures, 927 of 1,270,141 boxes: a part" in printed


def test_benchmark_that_is_missing(run, tmp_path):
    code, printed = run("--json", f"{tmp_path}/lvis_v1_val.json", "--images", str(tmp_path))
    assert code == 1 and "https://www.lvisdataset.org/dataset (annotations)" in printed


def test_where_benchmarks_come_from():
    """One source of truth: the page names the places that the messages name."""
    page = (ROOT / "datasets/README.md").read_text()
    for known in _BENCHMARKS.values():
        assert known.pictures in page and known.annotations in page
    assert find_benchmark([None, "/data/lvis/lvis_v1_train.json"]).images == 100_170
    assert find_benchmark(["mine.json"]) is None
