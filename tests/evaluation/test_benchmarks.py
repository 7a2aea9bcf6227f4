"""The benchmarks' configs on small files in their formats, against lvis-api and pycocotools run on
the files themselves."""

import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest
from detectron2.config import LazyConfig, instantiate
from lvis import LVIS, LVISEval, LVISResults
from omegaconf import OmegaConf
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from formats import FORMATS, draw_pictures, imperfect, perfect, process
from gridclip.data import DatasetError, open_dataset
from gridclip.engine import GridCLIPCheckpointer, do_eval_only
from gridclip.engine.prepare import prepare_text_embeddings
from gridclip.engine.train import build_model
from gridclip.evaluation import read_results, write_results
from gridclip.text import load_categories
from pages import PROJECT

COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
each_format = pytest.mark.parametrize("key", FORMATS)


def config_on(key: str, folder) -> tuple:
    """The config with ``data.val`` in a folder that is filled here, and what the files say."""
    cfg = LazyConfig.load(str(PROJECT / "configs" / FORMATS[key].config))
    where, made = FORMATS[key].write(folder)
    cfg.data.val.update({"json": None, "images": None, "dataset": None, "only": None, **where})
    cfg.train.output_dir = str(folder / "output")
    return cfg, made


def evaluate(cfg, results: list[dict]) -> tuple:
    """The evaluator after all images that the config tests, and its metrics."""
    evaluator = instantiate(cfg.dataloader.evaluator)
    records = instantiate(cfg.dataloader.test.dataset)
    process(evaluator, evaluator.data, results, records)
    return evaluator, evaluator.evaluate()["bbox"]


def subset(made: dict, ids: list[int], all_images: bool) -> dict:
    """The part of a file that has these categories and the images with one of their boxes."""
    boxes = [a for a in made["annotations"] if a["category_id"] in ids]
    shown = {a["image_id"] for a in boxes if not a.get("iscrowd")}
    return {
        **made,
        "images": [i for i in made["images"] if all_images or i["id"] in shown],
        "annotations": [a for a in boxes if all_images or a["image_id"] in shown],
        "categories": [c for c in made["categories"] if c["id"] in ids],
    }


def pycocotools(folder, made: dict, results: list[dict]) -> COCOeval:
    path = folder / "plain.json"
    path.write_text(json.dumps({"info": {}, **made}))
    known = {i["id"] for i in made["images"]}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        found = truth.loadRes([r for r in copy.deepcopy(results) if r["image_id"] in known])
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def lvis_api(folder, made: dict, results: list[dict], monkeypatch, max_dets=300) -> LVISEval:
    path = folder / "plain.json"
    path.write_text(json.dumps(made))
    known = {i["id"] for i in made["images"]}
    results = [r for r in copy.deepcopy(results) if r["image_id"] in known]
    with monkeypatch.context() as patched:
        patched.setattr(np, "float", float, raising=False)  # numpy has removed it
        truth = LVIS(str(path))
        evaluation = LVISEval(truth, LVISResults(truth, results, max_dets=max_dets), "bbox")
        evaluation.run()
    return evaluation


def flat(name: str) -> dict:
    """A config's settings by path."""
    found = {}

    def walk(node, path):
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{path}.{key}")
        else:
            found[path[1:]] = node

    walk(OmegaConf.to_container(LazyConfig.load(str(PROJECT / "configs" / name))), "")
    return found


def difference(name: str, other: str) -> set[str]:
    a, b = flat(name), flat(other)
    return {key for key in a.keys() | b.keys() if a.get(key, "absent") != b.get(key, "absent")}


BENCHMARKS = sorted(PROJECT.glob("configs/benchmarks/*.py"))


@pytest.mark.parametrize("path", [*BENCHMARKS, *sorted(PROJECT.glob("configs/coco/*.py"))])
def test_serialises_and_comes_back(path, tmp_path):
    cfg = LazyConfig.load(str(path))
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert not (tmp_path / "config.yaml.pkl").exists()
    assert LazyConfig.load(str(tmp_path / "config.yaml")).train == cfg.train


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_benchmarks_change_nothing_of_the_detector(path):
    allowed = {
        *("data.val.dataset", "data.val.json", "data.val.images", "data.val.only"),
        *("data.val.novel", "clip.names", "clip.text_embeddings", "train.output_dir"),
        *("model.max_detections_per_image", "dataloader.evaluator.ap"),
    }
    assert difference(f"benchmarks/{path.name}", "lvis/gridclip_r50_ov_1x.py") <= allowed


def test_fixed_ap_is_minival_with_many_detections():
    assert difference("benchmarks/lvis_minival_fixed_ap.py", "benchmarks/lvis_minival.py") == {
        "dataloader.evaluator.ap",
        "model.max_detections_per_image",
        "train.output_dir",
    }


def test_open_vocabulary_coco_is_full_coco_without_the_split():
    assert difference("coco/gridclip_r50_ov.py", "coco/gridclip_r50_full.py") == {
        *("data.novel", "data.leave_out", "clip.names", "clip.text_embeddings"),
        *("dataloader.test.dataset.filter_empty", "train.output_dir"),
    }


@each_format
def test_names_are_those_of_the_vocabulary(key, tmp_path):
    cfg, made = config_on(key, tmp_path)
    val = instantiate(cfg.data.val)
    names = [c.name for c in load_categories(FORMATS[key].names)]
    if key == "coco_ov":
        assert len(names) == 80 and cfg.clip.names is None
        names = [name for name in names if name not in cfg.data.leave_out]
        assert (len(names), len(val.novel_classes), len(val.base_classes)) == (65, 17, 48)
    else:
        assert cfg.clip.names == FORMATS[key].names
    assert list(val.names) == names
    assert len(val) == len(made["images"])
    assert val.federated == val.names[0].startswith("aerosol")
    assert cfg.model.max_detections_per_image == (300 if val.federated else 100)
    assert val.metrics == ("lvis" if val.federated else "coco")


def test_split_of_coco(tmp_path):
    """As in OVR-CNN's lists of seen and unseen classes."""
    val = instantiate(config_on("coco_ov", tmp_path)[0].data.val)
    assert sorted(val.names[i] for i in val.base_classes) == sorted(
        "toilet bicycle apple train laptop carrot motorcycle oven chair mouse boat kite sheep "
        "horse sandwich clock tv backpack toaster bowl microwave bench book orange bird pizza fork "
        "frisbee bear vase toothbrush spoon giraffe handbag broccoli refrigerator remote surfboard "
        "car bed banana donut skis person truck bottle suitcase zebra".split()
    )
    assert sorted(val.names[i] for i in val.novel_classes) == sorted(
        "umbrella cow cup bus keyboard skateboard dog couch tie snowboard sink elephant cake "
        "scissors airplane cat knife".split()
    )


@each_format
def test_perfect_and_permuted(key, tmp_path):
    cfg, made = config_on(key, tmp_path)
    evaluator, metrics = evaluate(cfg, perfect(made))
    known = {name: value for name, value in metrics.items() if not math.isnan(value)}
    assert known == pytest.approx(dict.fromkeys(known, 100))
    assert {"AP", "AP50"} <= set(known)
    if key in ("lvis", "minival"):
        assert {"APr", "APc", "APf", "AP_novel", "AP_base"} <= set(known)
    if key == "coco_ov":
        assert {"AP50_novel", "AP50_base", "AP_novel", "AP_base"} <= set(known)

    ids = evaluator.data.category_ids
    after = dict(zip(ids, ids[1:] + ids[:1], strict=True))
    permuted = [
        {**r, "category_id": after[r["category_id"]]}
        for r in perfect(made)
        if r["category_id"] in after
    ]
    assert evaluate(cfg, permuted)[1]["AP50"] < 5


@pytest.mark.parametrize("key", ["coco", "coco_full", "coco_ov", "voc", "objects365"])
def test_equals_pycocotools(key, tmp_path):
    cfg, made = config_on(key, tmp_path)
    results = imperfect(made)
    evaluator, metrics = evaluate(cfg, results)
    data = evaluator.data
    ids = list(data.category_ids)
    results = [r for r in results if r["category_id"] in ids]
    part = subset(made, ids, all_images=key != "coco_ov")
    assert (len(part["images"]) < len(made["images"])) == (key == "coco_ov")
    expected = pycocotools(tmp_path, part, results)
    for name, value in zip(COCO_METRICS, 100 * expected.stats[:6], strict=True):
        assert metrics[name] == pytest.approx(value, abs=1e-9)
    assert 0 < metrics["AP"] < 100

    place = {category_id: i for i, category_id in enumerate(expected.params.catIds)}
    precision = expected.eval["precision"][..., 0, -1]  # all sizes, 100 an image
    for name, ap in zip(data.names, evaluator.per_category.values(), strict=True):
        own = precision[..., place[ids[data.names.index(name)]]]
        expected_ap = 100 * own.mean() if (own > -1).all() else math.nan
        assert ap == pytest.approx(expected_ap, abs=1e-9, nan_ok=True)
    if key == "coco_ov":
        for part, classes in (("novel", data.novel_classes), ("base", data.base_classes)):
            own = precision[0][:, [place[ids[i]] for i in classes]]
            expected_ap = 100 * own[own > -1].mean()
            assert metrics[f"AP50_{part}"] == pytest.approx(expected_ap, abs=1e-9)


def test_crowds_and_mask_areas_matter_in_coco(tmp_path):
    """Or the test above would not see them."""
    cfg, made = config_on("coco", tmp_path)
    results = imperfect(made)
    stats = pycocotools(tmp_path, made, results).stats
    changed = copy.deepcopy(made)
    for a in changed["annotations"]:
        a["iscrowd"] = 0
    assert pycocotools(tmp_path, changed, results).stats[0] != pytest.approx(stats[0], abs=1e-4)
    changed = copy.deepcopy(made)
    for a in changed["annotations"]:
        a["area"] = a["bbox"][2] * a["bbox"][3]
    assert pycocotools(tmp_path, changed, results).stats[4] != pytest.approx(stats[4], abs=1e-4)


@pytest.mark.parametrize("max_dets", [None, 15])
@pytest.mark.parametrize("key", ["lvis", "lvis_full", "minival_of_val", "minival", "minival_named"])
def test_equals_lvis_api(key, max_dets, tmp_path, monkeypatch):
    cfg, made = config_on(key, tmp_path)
    if max_dets is not None:
        cfg.dataloader.evaluator.max_dets_per_image = max_dets
    results = imperfect(made)
    _, metrics = evaluate(cfg, results)
    expected = lvis_api(tmp_path, made, results, monkeypatch, max_dets or 300).results
    for name in (*COCO_METRICS, "APr", "APc", "APf"):
        assert metrics[name] == pytest.approx(100 * expected[name], abs=1e-9)
    assert 0 < metrics["AP"] < 100
    if key != "lvis_full":
        assert metrics["AP_novel"] == pytest.approx(metrics["APr"], abs=1e-9)


def test_minival_is_a_part_of_val(tmp_path):
    cfg, made = config_on("minival_of_val", tmp_path)
    val, everything = instantiate(cfg.data.val), FORMATS["lvis"].write(tmp_path / "all")[1]
    assert 0 < len(val) < len(everything["images"])
    assert list(val.annotations.image_ids) == sorted(i["id"] for i in made["images"])
    assert val.name.endswith("val2017 only") and val.arguments["only"] == "val2017"
    assert "image outside of only=" in str(val.findings)
    whole = open_dataset(json=cfg.data.val.json, images=cfg.data.val.images, only="")
    assert len(whole) > len(val) and whole.arguments["only"] is None
    again = open_dataset(**val.arguments)
    assert again.annotations.image_ids == val.annotations.image_ids
    with pytest.raises(DatasetError, match="no picture in the folder of only=.*val2014"):
        open_dataset(json=cfg.data.val.json, images=cfg.data.val.images, only="val2014")


@pytest.mark.parametrize("folder", ["coco", "coco/val2017"])
def test_pictures_of_minival_are_found_in_either_folder(folder, tmp_path):
    cfg, _ = config_on("minival_named", tmp_path)
    draw_pictures(instantiate(cfg.data.val))
    cfg.data.val.images = str(tmp_path / folder)
    instantiate(cfg.data.val).check_pictures()


def test_missing_voc_says_where_the_data_belong(tmp_path):
    cfg, _ = config_on("voc", tmp_path)
    (tmp_path / "VOC2007/ImageSets/Main/test.txt").unlink()
    with pytest.raises(FileNotFoundError, match="voc_2007_test.*test.txt.*datasets/README.md"):
        open_dataset(dataset=cfg.data.val.dataset)


@pytest.mark.parametrize(
    "options, ap",
    [
        ({}, "standard, at most 100 detections an image (not Fixed AP)"),
        (dict(max_dets_per_image=5), "standard, at most 5 detections an image (not Fixed AP)"),
        (dict(ap="fixed"), "Fixed AP, the best 10000 of a category over the set; "),
    ],
)
def test_results_and_the_log_name_the_protocol(options, ap, tmp_path, caplog):
    cfg, made = config_on("coco", tmp_path)
    cfg.dataloader.evaluator.update(options)
    evaluator = instantiate(cfg.dataloader.evaluator)
    evaluator.detector_limit = 120
    process(evaluator, evaluator.data, imperfect(made), instantiate(cfg.dataloader.test.dataset))
    caplog.set_level("INFO")
    metrics = evaluator.evaluate()
    if "ap" in options:
        ap += "at most 120 detections an image"
    assert "COCO's metrics, computed by pycocotools" in caplog.text and ap in caplog.text
    write_results(
        tmp_path,
        metrics,
        protocol=evaluator.protocol(),
        data=evaluator.data,
        num_images=len(evaluator.data),
    )
    protocol = read_results(tmp_path / "results.json")["protocol"]
    assert protocol["ap"] == ap and protocol["categories"] == 80
    assert protocol["dataset"] == "instances_val2017.json" and protocol["images"] == 40


def shrink(cfg, clip, folder) -> None:
    """A tiny model on the CPU, with files of its own."""
    cfg.clip.update(weights=str(clip), templates="single")
    cfg.clip.text_embeddings = str(folder / f"text_{cfg.clip.names}.safetensors")
    sizes = dict(layers=[1, 1, 1, 1], width=8, embed_dim=32, input_resolution=64, freeze_at=0)
    cfg.model.backbone.bottom_up.update(sizes)
    cfg.model.backbone.out_channels = 64
    cfg.model.head.conv_dims = [64]
    cfg.model.classifier.embed_dim = 32
    cfg.dataloader.test.mapper.augmentations[0].short_edge_length = 96
    cfg.dataloader.test.num_workers = 0
    cfg.train.update(device="cpu", output_dir=str(folder / f"output_{cfg.clip.names}"))
    cfg.train.amp.enabled = False
    (folder / f"output_{cfg.clip.names}").mkdir(exist_ok=True)


def test_one_detector_on_two_vocabularies(tmp_path, tiny_clip):
    """The weights of a training on LVIS, which is not there any more, on two benchmarks."""
    weights = None
    for key, categories in (("minival_of_val", 1203), ("coco", 80)):
        cfg, made = config_on(key, tmp_path)
        shrink(cfg, tiny_clip, tmp_path)
        val = instantiate(cfg.data.val)
        draw_pictures(val)
        if weights is None:
            whole = OmegaConf.create(copy.deepcopy(cfg))
            whole.model.federated_weights = None
            prepare_text_embeddings(whole, val)
            checkpointer = GridCLIPCheckpointer(build_model(whole), str(tmp_path))
            checkpointer.save("model_final")
            weights = str(tmp_path / "model_final.pth")
        cfg.train.init_checkpoint = weights
        metrics = do_eval_only(cfg)["bbox"]
        assert 0 <= metrics["AP"] < 100
        results = read_results(f"{cfg.train.output_dir}/results.json")
        assert results["protocol"]["categories"] == categories
        assert results["protocol"]["images"] == len(made["images"])
        assert results["data"]["only"] == ("val2017" if key == "minival_of_val" else None)
        assert results["weights"] == weights
