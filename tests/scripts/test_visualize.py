"""scripts/visualize.py: what it writes, and what it refuses."""

import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

import visualize
from drawn_page import Page
from gridclip.data import open_dataset
from gridclip.evaluation import OpenVocabularyEvaluator, write_results
from gridclip.predictor import Predictor
from world import save_untrained_gridclip, save_untrained_vild

RARE, FREQUENT = 1, 3  # category ids


@pytest.fixture
def dataset(tmp_path):
    """Two images with a box each, of a frequent and of a rare category, which is novel."""
    return make_dataset(tmp_path / "datasets")


def make_dataset(root, box=(8, 8, 32, 24), novel="rare"):
    (root / "val2017").mkdir(parents=True)
    images, annotations = [], []
    for image_id, category_id in ((1, FREQUENT), (2, RARE)):
        Image.new("RGB", (64, 48), "gray").save(root / "val2017" / f"{image_id:012}.jpg")
        url = f"http://images.cocodataset.org/val2017/{image_id:012}.jpg"
        images.append({"id": image_id, "width": 64, "height": 48, "coco_url": url})
        annotations.append(
            {"id": image_id, "image_id": image_id, "category_id": category_id, "bbox": list(box)}
        )
    categories = [
        {"id": i, "name": f"thing {i}", "frequency": "r" if i == RARE else "f"} for i in range(1, 5)
    ]
    json_file = root / "annotations.json"
    json_file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return open_dataset(json=json_file, images=root, novel=novel)


@pytest.fixture
def leave(tmp_path, dataset):
    """Makes the output folder of an evaluation, whose detections call all objects by one name."""

    def leave(name, data=dataset, called=RARE, images=(1, 2), ap=50.0, losses=True, rule=None):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        found = [
            {"image_id": i, "category_id": called, "bbox": [8, 8, 30, 24], "score": 0.75}
            for i in images
        ]
        (folder / "lvis_instances_results.json").write_text(json.dumps(found))
        names = dict.fromkeys(data.names, None)
        (folder / "per_category_ap.json").write_text(json.dumps(names | {data.names[0]: ap}))
        metrics = {"bbox": {"AP": ap, "AP50": 99.5, "AP_novel": ap}}
        protocol = OpenVocabularyEvaluator(data).protocol() | ({"ap": rule} if rule else {})
        write_results(folder, metrics, protocol=protocol, data=data, num_images=len(images))
        if losses:
            rows = [{"iteration": i, "total_loss": 1 / (1 + i), "lr": 0.1} for i in range(5)]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "metrics.json").write_text(lines)
        return folder

    return leave


def results(*arguments):
    visualize.main(["results", *map(str, arguments)])


def fails(message, *arguments):
    with pytest.raises(SystemExit, match=message):
        results(*arguments)


def rows_of(html):
    """The cells of each row of a page's tables."""
    cells = re.compile(r"<t[dh][^>]*>(.*?)</t[dh]>")
    return [cells.findall(row) for row in re.findall(r"<tr>(.*?)</tr>", html)]


def test_one_run(leave, capsys):
    folder = leave("run")
    results(folder)
    report = folder / "report"
    assert capsys.readouterr().out == f"{report / 'index.html'}\n"
    assert sorted(p.name for p in report.iterdir()) == [
        *("ap_by_group.png", "confusions_run.png", "index.html", "losses.png", "pictures")
    ]
    # The picture of the novel category comes first.
    written = ["000000000001.jpg", "000000000002.jpg"]
    assert sorted(p.name for p in (report / "pictures/run").iterdir()) == written
    html = (report / "index.html").read_text()
    page = Page(html)
    assert page.open == [] and all(x.startswith("data:image/") for x in page.sources)
    assert page.alts[-2:] == [name.removesuffix(".jpg") for name in reversed(written)]
    assert ["run", "2", "50.0", "50.0", "0.0"] in rows_of(html)
    assert ["thing 3", "thing 1 ★", "1", "1"] in rows_of(html)
    assert ["thing 1 ★", "1", "50.0"] in rows_of(html)
    assert "score of at least 0.3" in html and "IoU of at least 0.5" in html


def test_two_runs_side_by_side(leave, tmp_path):
    first, second = leave("a/seed0", ap=20.0), leave("b/seed0", called=FREQUENT, ap=70.0)
    results(first, second, "--output", tmp_path / "both", "--max-images", "1")
    assert sorted(p.name for p in (tmp_path / "both").iterdir()) == [
        *("ap_by_group.png", "confusions_a.png", "confusions_b.png", "differences_b.png"),
        *("index.html", "losses.png", "pictures"),
    ]
    html = (tmp_path / "both/index.html").read_text()
    assert Page(html).alts[-2:] == [f"{2:012}, a", f"{2:012}, b"]
    rows = rows_of(html)
    assert ["AP", "20.0", "70.0"] in rows and ["AP50", "99.5", "99.5"] in rows
    assert ["thing 1 ★", "thing 3", "1", "0", "1"] in rows
    assert ["thing 3", "thing 1 ★", "1", "1", "0"] in rows
    assert not (first / "report").exists()


def test_a_threshold_is_that_of_confusions_and_pictures(leave):
    folder = leave("run")
    results(folder, "--score-threshold", "0.8")
    html = (folder / "report/index.html").read_text()
    assert ["run", "2", "0.0", "0.0", "100.0"] in rows_of(html)
    assert html.count("score of at least 0.8") == 2
    assert not (folder / "report/confusions_run.png").exists()  # nothing is confused


def test_without_losses_and_with_a_part_of_the_pictures(leave):
    folder = leave("run", images=(2,), losses=False)
    results(folder)
    assert not (folder / "report/losses.png").exists()
    html = (folder / "report/index.html").read_text()
    assert "there is no metrics.json" in html
    assert ["run", "1", "100.0", "0.0", "0.0"] in rows_of(html)
    # The other picture was not looked at, as far as the detections tell.
    assert [p.name for p in (folder / "report/pictures/run").iterdir()] == [f"{2:012}.jpg"]


def test_results_files_alone_need_no_data(leave, tmp_path, dataset):
    first, second = leave("a"), leave("b", ap=60.0)
    Path(dataset.arguments["json"]).unlink()
    with pytest.raises(SystemExit) as stopped:
        results(first / "results.json")
    assert stopped.value.code == 2  # where to?
    output = tmp_path / "out"
    results(first / "results.json", second / "results.json", "--output", output)
    assert sorted(p.name for p in output.iterdir()) == ["ap_by_group.png", "index.html"]
    html = (output / "index.html").read_text()
    assert ["AP", "50.0", "60.0"] in rows_of(html) and "Training" not in html


def test_what_is_marked_as_novel_is_what_the_evaluation_left_out(leave, dataset):
    """Not what the file calls rare."""
    where = {key: dataset.arguments[key] for key in ("json", "images")}
    for name, novel in (("none", None), ("some", ["thing 3"])):
        folder = leave(name, open_dataset(**where, novel=novel))
        results(folder)
        html = (folder / "report/index.html").read_text()
        stars = {cell for row in rows_of(html) for cell in row if "★" in cell}
        assert stars == {f"{x} ★" for x in novel or ()}


def test_of_several_evaluations_the_last_counts(leave):
    folder = leave("run", images=(2,))
    old = folder / "lvis_instances_results.json"
    new = folder / "coco_instances_results.json"
    new.write_text(old.read_text().replace('"image_id": 2', '"image_id": 1'))
    os.utime(old, (1, 1))
    results(folder)
    assert [p.name for p in (folder / "report/pictures/run").iterdir()] == [f"{1:012}.jpg"]


def test_runs_that_mean_different_things_are_refused(leave, tmp_path, dataset):
    first = leave("first")
    other = make_dataset(tmp_path / "other", box=(8, 8, 20, 20))
    split = open_dataset(**dataset.arguments | {"novel": ["thing 2", "thing 3", "thing 4"]})
    runs = {
        "data set .*first.*annotations.json, digest [0-9a-f]{8}.*other_data": leave(
            "other_data", other
        ),
        r"novel categories .*first.*1 \(thing 1\).*split.*3 \(thing 2, thing 3, ...\)": leave(
            "split", split
        ),
        "number of images .*first.* is 2, .*part.* is 1": leave("part", images=(1,)),
        "rule of AP .*first.*standard.*fixed.* is Fixed AP": leave("fixed", rule="Fixed AP"),
    }
    for message, folder in runs.items():
        fails(f"error: Not comparable: the {message}", first, folder)
    fails("given twice", first, first / "results.json")
    assert not (first / "report").exists()


def test_errors_name_what_is_missing(leave, dataset):
    folder = leave("run")
    detections = folder / "lvis_instances_results.json"
    content = detections.read_text()
    detections.write_text(content.replace('"category_id": 1', '"category_id": 77'))
    fails(r"run.results\.json are of another data set: .* no image or category 77", folder)
    detections.write_text(content[:-1])
    fails(r"lvis_instances_results\.json is not a list of detections", folder)
    detections.unlink()
    fails(r"No \*_instances_results\.json in .*run: evaluate first", folder)
    detections.write_text(content)
    picture = Path(dataset.file_name(0))
    picture.rename(picture.with_suffix(".away"))
    fails(rf"1 of the 2 pictures of .*annotations\.json are missing, .*{picture.name}", folder)
    json_file = Path(dataset.arguments["json"])
    json_file.write_text(json_file.read_text().replace("[8, 8, 32, 24]", "[8, 8, 32, 25]"))
    fails(r"annotations\.json has changed since .*results\.json was written", folder)
    json_file.unlink()
    fails(r"'annotations\.json' are not at .*Check the path", folder)
    record = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(record | {"data": None}))
    fails(r"results\.json is older and does not say where its data are", folder)
    (folder / "results.json").unlink()
    fails(r"results\.json does not exist", folder)


@pytest.fixture(scope="module")
def detector(world, tiny_clip, tmp_path_factory):
    """config.yaml and detector.pth of a GridCLIP, not trained."""
    return save_untrained_gridclip(world, tiny_clip, tmp_path_factory.mktemp("gridclip"))


def words(folder, output, *pictures, words="red thing, kite"):
    arguments = ["--config-file", folder / "config.yaml", "--weights", folder / "detector.pth"]
    arguments += ["--words", words, "--output", output, "--input", *pictures]
    visualize.main(["words", *map(str, arguments)])


def test_words_over_pictures(detector, world, tmp_path, capsys):
    pictures = [world / "train2017/1.png", world / "train2017/2.png"]
    words(detector, tmp_path / "out", *pictures)
    assert capsys.readouterr().out == f"{tmp_path / 'out/index.html'}\n"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1.png", "2.png", "index.html"]
    html = (tmp_path / "out/index.html").read_text()
    page = Page(html)
    assert page.alts == ["1.png: red thing, kite", "2.png: red thing, kite"]
    # Of the three names of the training, "red thing" is asked for.
    assert "these words and 2 names of the training" in html and "w = 0.15" in html
    predictor = Predictor(detector / "config.yaml", detector / "detector.pth")
    predictor.save(tmp_path / "one.safetensors", with_clip=True)
    arguments = ["words", "--detector", tmp_path / "one.safetensors", "--words", "red thing, kite"]
    arguments += ["--input", *pictures, "--output", tmp_path / "again"]
    visualize.main(list(map(str, arguments)))
    for name in ("1.png", "2.png"):
        a, b = (Image.open(tmp_path / folder / name) for folder in ("out", "again"))
        assert a.tobytes() == b.tobytes()


def test_errors_of_words(detector, world, tiny_clip, tmp_path):
    picture, output = world / "train2017/1.png", tmp_path / "out"
    (tmp_path / "1.jpg").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"error: 2 pictures would write .*out/1.png"):
        words(detector, output, picture, tmp_path / "1.jpg")
    with pytest.raises(SystemExit, match=r"error: .*1.jpg can't be read as a picture"):
        words(detector, output, tmp_path / "1.jpg")
    with pytest.raises(SystemExit, match="error: .*no category names"):
        words(detector, output, picture, words=" , ")
    vild = save_untrained_vild("text", world, tiny_clip, tmp_path)
    with pytest.raises(SystemExit, match="error: ViLD .* has no grid .*: take a GridCLIP"):
        words(vild, output, picture)
    assert not output.exists()


@pytest.mark.parametrize(
    "given",
    [[], ["--config-file", "c.py"], ["--weights", "w", "--detector", "d", "--config-file", "c"]],
)
def test_a_detector_is_one_file_or_two(given, capsys):
    with pytest.raises(SystemExit) as stopped:
        visualize.main(["words", "--words", "a", "--input", "b", "--output", "c", *given])
    assert stopped.value.code == 2
    assert "give --config-file and --weights, or --detector" in capsys.readouterr().err
