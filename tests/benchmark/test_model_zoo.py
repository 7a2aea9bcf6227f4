"""The model zoo: its figures are the configs', and its page shows them."""

import json

import pytest
from detectron2.config import LazyConfig

from benchmark import model_zoo
from benchmark.contestants import build_from, load_config, random_text_embeddings
from benchmark.model_zoo import MODELS, OPERATIONS_PER_SECOND, PROJECT, RESULTS
from benchmark.tables import model_zoo_table

SMOKE = ("lvis/gridclip_r50_ov_smoke.py", "lvis/vild_r50_ov_smoke.py")
# The one trains nothing; the other's forward pass at test is no measure of its training step.
UNCOUNTED = ("lvis/vild_r50_dense_ov.py", "lvis/fvlm_r50_ov.py")


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads((RESULTS / "model_zoo.json").read_text())


def test_every_config_of_photographs_has_a_row(record):
    configs = PROJECT / "configs"
    paths = [*configs.glob("lvis/*.py"), *configs.glob("coco/*.py")]
    expected = {str(path.relative_to(configs)) for path in paths} - {*SMOKE, *UNCOUNTED}
    assert set(MODELS) == set(record["models"]) == expected


def test_hours_are_arithmetic(record):
    for name, model in record["models"].items():
        cfg = LazyConfig.load(str(PROJECT / "configs" / name))
        images = cfg.train.max_iter * cfg.dataloader.train.total_batch_size
        assert model["images_seen"] == images
        operations = 6 * 1e9 * model["gmac"] * images
        assert model["gpu_hours"] == pytest.approx(operations / OPERATIONS_PER_SECOND / 3600)
    hours = [model["gpu_hours"] for model in record["models"].values()]
    assert record["gpu_hours"] == pytest.approx(sum(hours))


def test_speed_is_the_measured_one(record):
    speed = json.loads((RESULTS / "speed_cpu.json").read_text())["inference"]
    rows = record["models"]
    for name, key in (
        ("gridclip_r50_ov_1x", "gridclip"),
        ("gridclip_r50_full_1x", "gridclip"),
        ("gridclip_r50_ov_light_1x", "gridclip_light"),
        ("vild_ens_r50_ov", "vild_ensemble"),
    ):
        measured = speed[key]["images_per_second"]
        assert rows[f"lvis/{name}.py"]["images_per_second"] == measured
    assert rows["coco/gridclip_r50_ov.py"]["images_per_second"] is None


def test_page_says_what_is_not_trained(record):
    rows = [line for line in model_zoo_table(record).splitlines() if line.startswith("| [")]
    assert len(rows) == len(MODELS) and all("not trained yet |" in row for row in rows)
    trained = {"metrics": {"bbox": {"AP": 21.04, "AP_novel": 15.96}}}
    record = {
        **record,
        "models": {n: {**m, "results": trained} for n, m in record["models"].items()},
    }
    assert "| 21.0, novel 16.0 |" in model_zoo_table(record)


@pytest.mark.slow
def test_the_command_writes_a_record(tmp_path, monkeypatch, record):
    name = "lvis/gridclip_r50_ov_light_1x.py"
    monkeypatch.setattr(model_zoo, "MODELS", {name: MODELS[name]})
    model_zoo.main(["--json", str(tmp_path / "zoo.json")])
    made = json.loads((tmp_path / "zoo.json").read_text())
    assert made["models"][name] == record["models"][name]


@pytest.mark.parametrize("name", ["lvis/gridclip_r50_ov_1x.py", "lvis/vild_r50_ov.py"])
def test_models_are_built_without_lvis(name):
    cfg = load_config(PROJECT / "configs" / name)
    cfg.data.train.update(json="missing.json", images="missing")
    cfg.model.backbone.bottom_up.update(layers=[1, 1, 1, 1])
    model = build_from(cfg, random_text_embeddings(1203, cfg.model.classifier.embed_dim))
    novel = model.classifier.is_novel if "vild" in name else model.federated_weights == 0
    assert novel.sum() == 337
