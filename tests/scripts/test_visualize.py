import json
import os
from pathlib import Path

import pytest
import visualize_results
from PIL import Image

from gridclip.data import open_dataset
from gridclip.evaluation import OpenVocabularyEvaluator, write_results

RARE, FREQUENT = 1, 3  # category ids


@pytest.fixture
def dataset(tmp_path):
    """Two images with a box each, of a frequent and of a rare category, which is novel."""
    root = tmp_path / "datasets"
    (root / "val2017").mkdir(parents=True)
    images, annotations = [], []
    for image_id, category_id in ((1, FREQUENT), (2, RARE)):
        Image.new("RGB", (64, 48), "gray").save(root / "val2017" / f"{image_id:012}.jpg")
        images.append(
            {
                "id": image_id,
                "width": 64,
                "height": 48,
                "coco_url": f"http://images.cocodataset.org/val2017/{image_id:012}.jpg",
            }
        )
        annotations.append(
            {
                "id": image_id,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": [8, 8, 32, 24],
                "area": 768,
                "segmentation": [[8, 8, 40, 8, 40, 32, 8, 32]],
            }
        )
    categories = [
        {"id": i, "name": f"thing {i}", "frequency": "r" if i == RARE else "f"} for i in range(1, 5)
    ]
    json_file = root / "annotations.json"
    json_file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return open_dataset(json=json_file, images=root, novel="rare")


@pytest.fixture
def output_dir(tmp_path):
    path = tmp_path / "output"
    path.mkdir()
    return path


def leave_predictions(folder, name="lvis_instances_results.json", image_id=2):
    box = {"image_id": image_id, "category_id": RARE, "bbox": [8, 8, 30, 20], "score": 0.75}
    (folder / name).write_text(json.dumps([box]))
    return folder / name


def leave_results(folder, dataset, num_images=2):
    protocol, metrics = OpenVocabularyEvaluator(dataset).protocol(), {"bbox": {"AP": 1.0}}
    write_results(folder, metrics, protocol=protocol, data=dataset, num_images=num_images)


def leave_metrics(folder):
    rows = [{"iteration": i, "total_loss": 1 / (1 + i), "lr": 0.1} for i in range(5)]
    (folder / "metrics.json").write_text("\n".join(json.dumps(row) for row in rows) + "\n")


def test_writes_pictures_and_losses(dataset, output_dir, capsys):
    predictions = json.loads(leave_predictions(output_dir).read_text())
    predictions.append({**predictions[0], "image_id": 1})
    (output_dir / "lvis_instances_results.json").write_text(json.dumps(predictions))
    leave_metrics(output_dir)
    leave_results(output_dir, dataset)
    visualize_results.main([str(output_dir), "--max-images", "1"])

    # The novel category comes first.
    picture = output_dir / "pictures" / f"{2:012}.jpg"
    assert [*(output_dir / "pictures").iterdir()] == [picture]
    assert Image.open(picture).size[0] > 2000
    assert Image.open(output_dir / "losses.png").size == (1200, 825)
    assert capsys.readouterr().out.split("\n")[:-1] == [
        str(output_dir / "losses.png"),
        str(picture),
    ]


def test_without_metrics(dataset, output_dir, capsys):
    leave_predictions(output_dir)
    leave_results(output_dir, dataset, num_images=1)
    visualize_results.main([str(output_dir), "--score-threshold", "0.5"])
    # The other image was not looked at, as far as the predictions tell.
    assert len([*(output_dir / "pictures").iterdir()]) == 1
    assert "metrics.json" in capsys.readouterr().err
    assert not (output_dir / "losses.png").exists()


def test_what_is_drawn_as_novel_is_what_the_evaluation_left_out(dataset, output_dir, monkeypatch):
    """Not what the file calls rare."""
    seen = []
    monkeypatch.setattr(
        "gridclip.evaluation.pictures.draw_detections",
        lambda records, data, *_, **__: seen.append(data) or [],
    )
    leave_predictions(output_dir)
    where = {key: dataset.arguments[key] for key in ("json", "images")}
    for novel in (None, [], ["thing 2", "thing 4"], "rare"):
        leave_results(output_dir, open_dataset(**where, novel=novel))
        visualize_results.main([str(output_dir)])
    assert [data.novel_classes for data in seen] == [None, (), (1, 3), (RARE - 1,)]


def test_of_several_evaluations_the_last_is_drawn(dataset, output_dir):
    leave_results(output_dir, dataset, num_images=1)
    old = leave_predictions(output_dir, "lvis_instances_results.json", image_id=1)
    new = leave_predictions(output_dir, "coco_instances_results.json", image_id=2)
    os.utime(old, (1, 1))
    visualize_results.main([str(output_dir)])
    assert [p.name for p in (output_dir / "pictures").iterdir()] == [f"{2:012}.jpg"]
    os.utime(new, (0, 0))
    (output_dir / "pictures" / f"{2:012}.jpg").unlink()
    visualize_results.main([str(output_dir)])
    assert [p.name for p in (output_dir / "pictures").iterdir()] == [f"{1:012}.jpg"]


def test_errors_name_what_is_missing(dataset, output_dir):
    def fails(message, *arguments):
        with pytest.raises(SystemExit, match=message):
            visualize_results.main([str(output_dir), *arguments])

    fails(r"results\.json does not exist")
    leave_results(output_dir, dataset)
    fails(r"No \*_instances_results\.json in .*output: evaluate first")
    leave_predictions(output_dir)
    picture = Path(dataset.file_name(0))
    picture.rename(picture.with_suffix(".away"))
    fails(rf"1 of the 2 pictures of .*annotations\.json are missing, the first .*{picture.name}")
    json_file = Path(dataset.arguments["json"])
    json_file.rename(json_file.with_suffix(".away"))
    fails(r"'annotations\.json' are not at .*Check the path")
    (output_dir / "results.json").write_text("{}")
    fails(r"results\.json has no metrics")
    assert not (output_dir / "pictures").exists()
