import hashlib
import json
import math
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import detectron2
import pytest
import torch
from detectron2.config import LazyCall, LazyConfig
from omegaconf import OmegaConf

from gridclip.data import open_dataset
from gridclip.evaluation import OpenVocabularyEvaluator, read_results, write_results
from gridclip.evaluation import results as results_module
from gridclip.files import replacing

METRICS = {"bbox": {"AP": 12.5, "AP50": 100 / 3, "AP_novel": math.nan}}


@pytest.fixture
def describe(tmp_path):
    """Describes two pictures with one box, in LVIS's format, of five categories."""
    size, lists = {"width": 8, "height": 8}, {"neg_category_ids": []}
    images = [{"id": i, "coco_url": f"http://x/val/{i}.jpg", **size, **lists} for i in (1, 5)]
    box = {"image_id": 5, "category_id": 2, "bbox": [1, 1, 4, 4], "area": 16}
    categories = [{"id": i, "name": name} for i, name in enumerate("abcde", start=1)]
    content = {"images": images, "categories": categories, "annotations": [box]}
    (tmp_path / "annotations.json").write_text(json.dumps(content))

    def describe(**arguments):
        return open_dataset(
            json=str(tmp_path / "annotations.json"), images=str(tmp_path), **arguments
        )

    return describe


@pytest.fixture
def dataset(describe):
    return describe()


def write(folder, data, metrics=METRICS, detector_limit=None, **facts):
    evaluator = OpenVocabularyEvaluator(data)
    evaluator.detector_limit = detector_limit
    protocol = evaluator.protocol()
    return write_results(folder, metrics, protocol=protocol, data=data, num_images=2, **facts)


def refuse(constant):
    raise AssertionError(f"{constant} is not strict JSON")


def test_round_trip(describe, tmp_path):
    dataset = describe(novel=["e", "d"])
    path = write(
        tmp_path / "new" / "out",
        dataset,
        cfg={"train": {"seed": 7}},
        seed=7,
        weights="output/model_final.pth",
        iterations=90000,
        seconds=1.5,
    )
    assert path == tmp_path / "new" / "out" / "results.json"
    # Nothing temporary is left.
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]

    strict = json.loads(path.read_text(), parse_constant=refuse)
    assert strict["metrics"]["bbox"]["AP_novel"] is None

    record = read_results(path)
    assert record["metrics"]["bbox"] == pytest.approx(METRICS["bbox"], nan_ok=True)
    content = (tmp_path / "annotations.json").read_bytes()
    assert record["protocol"] == {
        "task": "bbox",
        "evaluator": "lvis-api 0.5.3's metrics, computed by FastLVISEval",
        "ap": "standard, at most 300 detections an image (not Fixed AP)",
        "dataset": "annotations.json",
        "dataset_sha256": hashlib.sha256(content).hexdigest(),
        "images": 2,
        "categories": 5,
        "split": "open-vocabulary",
        "novel_classes": 2,
        "notes": [
            "category without boxes: 4: kept; one that is only a root: data.leave_out",
            "picture without boxes: 1: kept",
        ],
    }
    # What describes the same data set again.
    assert record["data"] == {
        "json": str(tmp_path / "annotations.json"),
        "images": str(tmp_path),
        "novel": ["d", "e"],
        "leave_out": [],
        "only": None,
        "metrics": None,
    }
    again = open_dataset(**record["data"])
    assert (again.sha256, again.names) == (dataset.sha256, dataset.names)
    assert again.novel_classes == dataset.novel_classes == (3, 4)
    assert record["config"] == {"train": {"seed": 7}}
    assert (record["seed"], record["iterations"], record["seconds"]) == (7, 90000, 1.5)
    assert (record["weights"], record["device"]) == ("output/model_final.pth", "cpu")
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert record["versions"]["detectron2"].endswith(detectron2.__version__)
    assert set(record["versions"]) == {
        *("python", "torch", "torchvision", "detectron2", "lvis", "numpy", "clip")
    }
    age = datetime.now(UTC) - datetime.fromisoformat(record["date"])
    assert timedelta(0) <= age < timedelta(minutes=1)


def test_fully_supervised(dataset, tmp_path):
    path = write(tmp_path, dataset, detector_limit=100)
    record = read_results(path)
    assert record["protocol"]["split"] == "no category is named as novel"
    assert record["protocol"]["novel_classes"] == 0
    assert "at most 100 detections" in record["protocol"]["ap"]
    assert record["config"] is None
    assert record["data"]["novel"] is None


def test_lazy_config_is_written_resolved_and_by_name(dataset, tmp_path):
    config_file = tmp_path / "config.py"
    config_file.write_text(
        "import torch\n"
        "from detectron2.config import LazyCall as L\n"
        "from detectron2.layers import ShapeSpec\n"
        "model = L(torch.nn.Linear)(in_features=4, out_features='${.in_features}')\n"
        "spec = L(ShapeSpec)(channels=8)\n"
        "train = dict(init_checkpoint='./weights/RN50.pt', dtype=torch.float16, amp=None)\n"
        "sizes = dict(ranges=[[0, 64], (64, float('inf'))], flip=True, lr=1e-3)\n"
    )
    cfg = LazyConfig.load(str(config_file))
    path = write(tmp_path, dataset, cfg=cfg)
    assert read_results(path)["config"] == {
        "model": {
            "in_features": 4,
            "out_features": 4,
            "_target_": "torch.nn.Linear",
        },
        "spec": {"channels": 8, "_target_": "detectron2.layers.ShapeSpec"},
        "train": {"init_checkpoint": "./weights/RN50.pt", "dtype": "torch.float16", "amp": None},
        "sizes": {"ranges": [[0, 64], [64, "inf"]], "flip": True, "lr": 1e-3},
    }
    # The caller's config is left as it was.
    assert cfg.model._target_ is torch.nn.Linear


def test_a_config_from_the_model_zoo_is_strict_json(dataset, tmp_path):
    from detectron2 import model_zoo

    cfg = model_zoo.get_config("common/models/fcos.py")
    cfg.optimizer = LazyCall(torch.optim.SGD)(params=None, lr=OmegaConf.create({"a": 1}))
    path = write(tmp_path, dataset, cfg=cfg)
    text = path.read_text()
    assert json.loads(text, parse_constant=refuse)["config"]["model"]["num_classes"] == 80
    assert " at 0x" not in text


def test_a_failed_write_keeps_the_earlier_file(dataset, tmp_path):
    path = write(tmp_path, dataset)
    before = path.read_text()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path, dataset, {"bbox": {"AP": math.inf}})
    assert path.read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["annotations.json", "results.json"]


def test_a_file_is_replaced_never_overwritten(dataset, tmp_path):
    """A reader that has the file open, here a hard link, never sees half of another."""
    path = write(tmp_path, dataset)
    before = path.read_text()
    (tmp_path / "link").hardlink_to(path)
    write(tmp_path, dataset, {"bbox": {"AP": 1.0}})
    assert (tmp_path / "link").read_text() == before
    assert read_results(path)["metrics"] == {"bbox": {"AP": 1.0}}

    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert read_results(path)["metrics"] == {"bbox": {"AP": 1.0}}
    assert not partial.exists()


@pytest.mark.parametrize("metrics", [{}, {"bbox": 3.0}, {"bbox": {"AP": "high"}}])
def test_refuses_to_write_what_it_could_not_read(dataset, tmp_path, metrics):
    with pytest.raises(ValueError, match="metrics"):
        write(tmp_path, dataset, metrics)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("metrics"), "has no metrics"),
        (lambda r: r.update(metrics={}), "metrics are empty"),
        (lambda r: r["metrics"].update(bbox=[1]), "metrics.bbox is not a JSON object"),
        (lambda r: r["metrics"]["bbox"].update(AP="1"), "AP is '1'"),
        (lambda r: r.update(versions=None), "versions is None"),
        (lambda r: r["protocol"].pop("dataset_sha256"), "protocol has no dataset_sha256"),
        (lambda r: r["protocol"].update(images="2"), "images is '2', not int"),
    ],
)
def test_read_names_the_fault(dataset, tmp_path, change, message):
    path = write(tmp_path, dataset)
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message) as error:
        read_results(path)
    assert str(path) in str(error.value)


def test_read_missing_and_broken_files(tmp_path):
    path = tmp_path / "results.json"
    with pytest.raises(FileNotFoundError, match=r"results\.json does not exist"):
        read_results(path)
    for text in ("", "{", '{"metrics": {"bbox": {"AP": NaN}}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"results\.json is not strict JSON"):
            read_results(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"results\.json is not a JSON object"):
        read_results(path)


def test_commit_of_the_code(tmp_path, monkeypatch):
    """The checkout's HEAD, "-dirty" after a change, "unknown" for a file that git does not know."""

    def git(*args):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        command = ["git", "-C", str(tmp_path), *identity, *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    for variable in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.delenv(variable, raising=False)
    module = tmp_path / "code.py"
    module.write_text("x = 1\n")
    monkeypatch.setattr(results_module, "__file__", str(module))
    git("init")
    assert results_module.git_commit() == "unknown"
    git("add", "code.py")
    git("commit", "-m", "first")
    git("tag", "v1")
    assert results_module.git_commit() == git("rev-parse", "HEAD")
    module.write_text("x = 2\n")
    assert results_module.git_commit() == git("rev-parse", "HEAD") + "-dirty"

    # Installed into an environment that lies inside another checkout.
    installed = tmp_path / "installed.py"
    installed.write_text("")
    monkeypatch.setattr(results_module, "__file__", str(installed))
    assert results_module.git_commit() == "unknown"
    monkeypatch.setattr(results_module, "__file__", str(module))
    monkeypatch.setenv("PATH", "")
    assert results_module.git_commit() == "unknown"


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (
            "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n",
            "AMD EPYC (family 26, model 2)",
        ),
        ("processor : 0\nmodel name : Some ARM\n", "Some ARM"),
        ("nothing that is known", "unknown CPU"),
    ],
)
def test_processors_of_one_name_are_told_apart(cpuinfo, name, monkeypatch):
    """Trainings differ between them, and virtual machines call them alike."""
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: cpuinfo)
    monkeypatch.setattr(results_module.platform, "processor", lambda: "")
    assert results_module.processor_name("cpu") == name
