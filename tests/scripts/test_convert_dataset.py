import json
from collections import Counter
from pathlib import Path
from xml.dom import minidom

import numpy as np
import pytest
from PIL import Image

import convert_dataset as script
from gridclip.data import open_dataset


def run(*args):
    script.main([str(arg) for arg in args])


def boxes_of(data):
    """(file, category, bbox) of all objects."""
    files = {image["id"]: image["file_name"] for image in data["images"]}
    names = {category["id"]: category["name"] for category in data["categories"]}
    return [(files[a["image_id"]], names[a["category_id"]], a["bbox"]) for a in data["annotations"]]


@pytest.fixture
def images(tmp_path):
    """a.png and c.jpg of 200 x 100 pixels, and b.png, which is that large only once upright."""
    folder = tmp_path / "images"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (200, 100)).save(folder / "a.png")
    Image.new("RGB", (100, 200)).save(folder / "b.png", exif=exif)
    Image.new("RGB", (200, 100)).save(folder / "c.jpg")
    (folder / "notes.txt").write_text("no picture")
    return folder


def voc_object(name, x0, y0, x1, y1, more=""):
    corners = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
    return f"<object><name>{name}</name><bndbox>{corners}</bndbox>{more}</object>"


POLYGON = "<polygon><x1>11</x1><y1>11</y1><x2>30</x2><y2>11</y2><x3>20</x3><y3>40</y3></polygon>"


@pytest.fixture
def voc(tmp_path, images):
    """The arguments; a.xml has three objects, b.xml one, c.xml none."""
    folder = tmp_path / "Annotations"
    folder.mkdir()
    objects = {
        "a": voc_object("owl", 1, 1, 200, 100)
        + voc_object("cat", 11, 11, 30, 40, POLYGON)
        + voc_object("cat", 7, 9, 6, 9),
        "b": voc_object("ant", 50.5, 2, 60, 12),
        "c": "",
    }
    for stem, text in objects.items():
        (folder / f"{stem}.xml").write_text(f"<annotation>{text}</annotation>")
    return [
        "voc",
        "--annotations",
        folder,
        "--images",
        images,
        "--output",
        tmp_path / "o" / "v.json",
    ]


@pytest.fixture
def yolo(tmp_path, images):
    """The arguments; a.txt has four lines, b.txt one, c.jpg no file."""
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "a.txt").write_text(
        "1 0.5 0.5 1 1\n0 0.25 0.5 0.1 0.2\n\n1 0.1 0.2 0.3 0.2 0.2 0.6\n0 0.5 0.5 0 0.5\n"
    )
    (folder / "b.txt").write_text("2 0.5 0.5 0.5 0.5\n")
    (folder / "classes.txt").write_text("owl\ncat\nant\n")
    (tmp_path / "data.yaml").write_text("names: [owl, cat, ant, bee]\n")
    options = ["--labels", folder, "--data", tmp_path / "data.yaml", "--images", images]
    return ["yolo", *options, "--output", tmp_path / "y.json"]


def test_voc(voc, capsys):
    run(*voc)
    assert [path.name for path in voc[-1].parent.iterdir()] == ["v.json"]
    data = json.loads(voc[-1].read_text())
    size = dict(width=200, height=100)
    assert data["images"] == [
        dict(id=1, file_name="a.png", **size),
        dict(id=2, file_name="b.png", **size),
        dict(id=3, file_name="c.jpg", **size),
    ]
    names = ["ant", "cat", "owl"]
    assert data["categories"] == [dict(id=i, name=n) for i, n in enumerate(names, start=1)]
    # From pixels that are counted from 1, the last one included.
    assert boxes_of(data) == [
        ("a.png", "owl", [0, 0, 200, 100]),
        ("a.png", "cat", [10, 10, 20, 30]),
        ("a.png", "cat", [5, 8, 2, 1]),  # its corners were the wrong way round
        ("b.png", "ant", [49.5, 1, 10.5, 11]),
    ]
    assert [a["id"] for a in data["annotations"]] == [1, 2, 3, 4]
    assert [a["area"] for a in data["annotations"]] == [20000, 600, 2, 115.5]
    printed = capsys.readouterr()
    assert f"{voc[-1]}: 3 pictures, 4 boxes\n       1  ant\n       2  cat\n" in printed.out
    assert "Pictures: 100%" in printed.err


def test_categories_of_all_splits_agree(voc, tmp_path, capsys):
    (tmp_path / "part.txt").write_text("c\n\nb \n")
    run(*voc, "--list", tmp_path / "part.txt")
    data = json.loads(voc[-1].read_text())
    assert [image["file_name"] for image in data["images"]] == ["b.png", "c.jpg"]
    assert [category["name"] for category in data["categories"]] == ["ant", "cat", "owl"]
    assert [(name, bbox) for _, name, bbox in boxes_of(data)] == [("ant", [49.5, 1, 10.5, 11])]
    assert "0  owl" in capsys.readouterr().out


def test_yolo(yolo, tmp_path):
    run(*yolo)
    data = json.loads(yolo[-1].read_text())
    assert [category["name"] for category in data["categories"]] == ["owl", "cat", "ant", "bee"]
    assert [image["file_name"] for image in data["images"]] == ["a.png", "b.png", "c.jpg"]
    assert all((image["width"], image["height"]) == (200, 100) for image in data["images"])
    found = boxes_of(data)
    assert [(file, name) for file, name, _ in found] == [
        *(("a.png", name) for name in ("cat", "owl", "cat", "owl")),
        ("b.png", "ant"),
    ]
    # The third is a polygon's; the fourth has no width, which the reader of the JSON reports.
    expected = [(0, 0, 200, 100), (40, 40, 20, 20), (20, 20, 40, 40), (100, 25, 0, 50)]
    expected.append((50, 25, 100, 50))
    np.testing.assert_allclose([bbox for *_, bbox in found], expected, atol=0.002)
    areas = [annotation["area"] for annotation in data["annotations"]]
    np.testing.assert_allclose(areas, [20000, 400, 1600, 0, 5000], rtol=1e-3)

    (tmp_path / "data.yaml").write_text("names: {1: cat, 0: owl, 3: bee, 2: ant}\n")
    run(*yolo)
    assert json.loads(yolo[-1].read_text()) == data


def test_the_same_input_gives_the_same_bytes(voc):
    run(*voc)
    before = voc[-1].read_bytes()
    run(*voc)
    assert voc[-1].read_bytes() == before


def edit(name, content):
    def apply(folder):
        path = folder / name
        path.unlink() if content is None else path.write_text(content)

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("Annotations/b.xml", None), "b.png has no .*b.xml: leave it out by --list"),
        (edit("images/b.png", None), "b.xml: there is no picture 'b' in .*images"),
        (edit("images/b.png", "none"), "b.png: cannot identify image file"),
        (edit("Annotations/b.xml", "<annotation>"), "b.xml: no element found"),
        (edit("Annotations/b.xml", "<a><object/></a>"), "b.xml: Missing 'name'"),
        (edit("Annotations/b.xml", f"<a>{voc_object('x', 'nan', 1, 2, 3)}</a>"), "b.xml: .*xmin"),
    ],
)
def test_errors_of_voc_name_the_file_and_write_nothing(voc, tmp_path, change, message):
    change(tmp_path)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        run(*voc)
    assert not voc[-1].exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("images/b.png", None), "b.txt: there is no picture 'b' in .*images"),
        (edit("labels/b.txt", "4 0.5 0.5 1 1"), "b.txt: category 4 is not one of the 4 names"),
        (edit("labels/b.txt", "-1 0.5 0.5 1 1"), "b.txt: category -1 is not one of the 4 names"),
        (edit("labels/b.txt", "0 0.5 0.5 1"), "b.txt: .*at least 5 tokens"),
        (edit("labels/b.txt", "0 0.5 0.5 -1 1"), "b.txt: .*non-negative width"),
        (edit("data.yaml", None), "data.yaml: .*No such file"),
        (edit("data.yaml", "[owl]"), "data.yaml: 'names' must be a list"),
        (edit("data.yaml", "names: {0: owl, 2: cat}"), "data.yaml: 'names' must be a list"),
        (edit("data.yaml", "names: [a]\nkpt_shape: [3, 2]"), "data.yaml: .*export boxes"),
        (edit("data.yaml", "names: ["), "data.yaml: while parsing"),
    ],
)
def test_errors_of_yolo_name_the_file_and_write_nothing(yolo, tmp_path, change, message):
    change(tmp_path)
    with pytest.raises(SystemExit, match=rf"(?s)error: \S*{message}"):
        run(*yolo)
    assert not yolo[-1].exists()


def test_folders_and_lists_that_do_not_fit(voc, tmp_path):
    (tmp_path / "part.txt").write_text("a\nz -1\n")
    with pytest.raises(SystemExit, match="part.txt: there is no picture 'z -1' in .*images"):
        run(*voc, "--list", tmp_path / "part.txt")
    with pytest.raises(SystemExit, match="images has no annotations: there is no file .*xml"):
        run(*voc, "--annotations", tmp_path / "images")
    with pytest.raises(SystemExit, match="nowhere"):
        run(*voc, "--images", tmp_path / "nowhere")


@pytest.fixture(scope="module")
def bccd(shared_data) -> Path:
    folder = shared_data / "bccd"
    if not folder.is_dir():
        pytest.skip(f"no {folder.name}/ in {shared_data}")
    return folder


def parse_bccd(path):
    """What the file says, by another parser: (name, xmin, ymin, xmax, ymax) of each object."""

    def text(node, tag):
        return node.getElementsByTagName(tag)[0].firstChild.data

    corners = ("xmin", "ymin", "xmax", "ymax")
    return [
        (text(node, "name"), *(int(text(node, corner)) for corner in corners))
        for node in minidom.parse(str(path)).getElementsByTagName("object")
    ]


def test_bccd(bccd, tmp_path):
    options = ["voc", "--annotations", bccd / "Annotations", "--images", bccd / "JPEGImages"]
    run(*options, "--output", tmp_path / "all.json")
    data = json.loads((tmp_path / "all.json").read_text())
    assert len(data["images"]) == 364 and len(data["annotations"]) == 4888
    counts = Counter(name for _, name, _ in boxes_of(data))
    assert counts == {"RBC": 4155, "WBC": 372, "Platelets": 361}
    expected = [
        (f"{path.stem}.jpg", name, [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1])
        if (x0, y0) != (x1, y1)
        else (f"{path.stem}.jpg", name, [x0, y0, 0, 0])
        for path in sorted((bccd / "Annotations").glob("*.xml"))
        for name, x0, y0, x1, y1 in parse_bccd(path)
    ]
    assert boxes_of(data) == expected
    (found,) = [
        item
        for item in open_dataset(json=tmp_path / "all.json", images=options[-1]).findings.items
        if item.what == "box without width or height"
    ]
    assert (found.count, found.action) == (
        2,
        "left out",
    ) and "[504.0, 337.0, 0.0, 0.0]" in found.first

    splits = {}
    for split in ("train", "val", "test"):
        listed, output = bccd / "ImageSets/Main" / f"{split}.txt", tmp_path / f"{split}.json"
        run(*options, "--list", listed, "--output", output)
        part = json.loads(output.read_text())
        splits[split] = {image["file_name"] for image in part["images"]}
        assert splits[split] == {f"{stem}.jpg" for stem in listed.read_text().split()}
        assert part["categories"] == data["categories"]
        assert boxes_of(part) == [box for box in expected if box[0] in splits[split]]
    assert list(map(len, splits.values())) == [205, 87, 72]
    assert len(set().union(*splits.values())) == 364
