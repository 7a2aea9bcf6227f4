import json
import uuid
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_lvis_instances
from PIL import Image

import visualize_results
from gridclip.evaluation import write_results

RARE, FREQUENT = 1, 3  # category ids


@pytest.fixture
def dataset(tmp_path):
    """Two registered images with a box each, of a frequent and of a rare category."""
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
    name = f"lvis_v1_{uuid.uuid4().hex}"
    register_lvis_instances(name, {}, str(json_file), f"{root}/")
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture
def output_dir(tmp_path):
    path = tmp_path / "output"
    path.mkdir()
    return path


def leave_predictions(folder):
    folder.mkdir(exist_ok=True)
    box = {"image_id": 2, "category_id": RARE, "bbox": [8, 8, 30, 20], "score": 0.75}
    (folder / "lvis_instances_results.json").write_text(json.dumps([box]))


def leave_metrics(folder):
    rows = [{"iteration": i, "total_loss": 1 / (1 + i), "lr": 0.1} for i in range(5)]
    (folder / "metrics.json").write_text("\n".join(json.dumps(row) for row in rows) + "\n")


def test_writes_pictures_and_losses(dataset, output_dir, capsys):
    leave_predictions(output_dir / "inference")
    leave_metrics(output_dir)
    write_results(
        output_dir,
        {"bbox": {"AP": 1.0}},
        dataset_name=dataset,
        num_images=3,
        novel_classes=[RARE - 1],
    )
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


def test_dataset_given_without_results_and_metrics(dataset, output_dir, capsys):
    leave_predictions(output_dir)
    visualize_results.main([str(output_dir), "--dataset", dataset, "--score-threshold", "0.5"])
    # The other image was not looked at, as far as the predictions tell.
    assert len([*(output_dir / "pictures").iterdir()]) == 1
    assert "metrics.json" in capsys.readouterr().err
    assert not (output_dir / "losses.png").exists()


def test_novel_classes_by_metadata_or_frequency(dataset, capsys):
    assert visualize_results.find_novel_classes(dataset, 0) == []
    assert visualize_results.find_novel_classes(dataset, 1) == [RARE - 1]
    assert visualize_results.find_novel_classes(dataset, 2) == []
    assert "results.json says 2" in capsys.readouterr().err
    MetadataCatalog.get(dataset).set(novel_classes=[1, 3])
    assert visualize_results.find_novel_classes(dataset, 2) == [1, 3]


def test_errors_name_what_is_missing(dataset, output_dir):
    def fails(message, *arguments):
        with pytest.raises(SystemExit, match=message):
            visualize_results.main([str(output_dir), *arguments])

    fails(r"No lvis_instances_results\.json in .*output")
    leave_predictions(output_dir)
    fails(r"results\.json does not exist")
    fails("nowhere", "--dataset", "nowhere")
    json_file = Path(MetadataCatalog.get(dataset).json_file)
    json_file.rename(json_file.with_suffix(".away"))
    fails(r"annotations\.json.*DETECTRON2_DATASETS", "--dataset", dataset)
    (output_dir / "results.json").write_text("{}")
    fails(r"results\.json has no metrics")
    assert not (output_dir / "pictures").exists()
