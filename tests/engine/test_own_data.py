"""Data of one's own through the whole of training and evaluation."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from PIL import Image

from gridclip.data import all_records, open_dataset
from gridclip.engine import do_eval_only, do_train
from gridclip.engine.prepare import prepare_text_embeddings
from gridclip.engine.schedule import complete_schedule
from gridclip.engine.train import build_model
from gridclip.evaluation import read_results
from gridclip.predictor import Predictor
from gridclip.text import TextEmbeddings
from world import as_coco, own_data_config


@pytest.fixture
def own(world, tiny_clip, tmp_path):
    """Makes the config for own data; ``changes`` are of the COCO file."""

    def make(changes=None, **train):
        json_file = as_coco(world, tmp_path / "mine.json", **(changes or {}))
        return own_data_config(world, json_file, tiny_clip, tmp_path / "output", **train)

    return make


@pytest.fixture
def catalog():
    """Takes what a test registers out of detectron2's catalogs again."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def results_of(cfg):
    return read_results(f"{cfg.train.output_dir}/results.json")


def test_from_clips_weights_to_results_and_a_predictor(own, world):
    cfg = own()
    cfg.data.novel = ["blue thing"]
    do_train(cfg)
    results = results_of(cfg)
    assert "pycocotools" in results["protocol"]["evaluator"]
    assert "at most 100 detections an image" in results["protocol"]["ap"]
    assert (results["protocol"]["images"], results["protocol"]["categories"]) == (12, 3)
    assert results["protocol"]["novel_classes"] == 1 and results["data"]["novel"] == ["blue thing"]
    assert {"AP", "AP50", "AP_novel", "AP50_novel", "AP_base"} <= set(results["metrics"]["bbox"])
    written = json.loads(Path(cfg.train.output_dir, "coco_instances_results.json").read_text())
    assert {r["category_id"] for r in written} <= {3, 10, 17} and written
    assert len(list(Path(cfg.train.output_dir, "pictures").glob("*.jpg"))) == 12

    cfg.train.init_checkpoint = f"{cfg.train.output_dir}/model_final.pth"
    do_eval_only(cfg)
    assert results_of(cfg)["metrics"]["bbox"] == pytest.approx(
        results["metrics"]["bbox"], nan_ok=True
    )
    predictor = Predictor(cfg, cfg.train.init_checkpoint)
    assert predictor.names == ("red thing", "green thing", "blue thing")
    assert len(predictor(world / "train2017/1.png"))


def test_detectron2s_own_evaluator(own, world, catalog):
    dataset = json.loads(as_coco(world, world.parent / "plain.json").read_text())
    for i, annotation in enumerate(dataset["annotations"]):  # pycocotools needs all three
        annotation |= {"id": i + 1, "iscrowd": 0, "area": 100}
    cfg = own(dataset)
    register_coco_instances("own_v0", {}, cfg.data.val.json, cfg.data.val.images)
    cfg.data.val.update(json=None, images=None, dataset="own_v0")
    cfg.dataloader.evaluator = LazyCall(COCOEvaluator)(
        dataset_name="own_v0", output_dir="${train.output_dir}"
    )
    do_train(cfg)
    assert results_of(cfg)["protocol"]["evaluator"] == "COCOEvaluator"


def test_a_registered_data_set(own, catalog):
    cfg = own()
    register_coco_instances("own_v0", {}, cfg.data.val.json, cfg.data.val.images)
    for part in (cfg.data.train, cfg.data.val):
        part.update(json=None, images=None, dataset="own_v0")
    do_train(cfg)
    assert results_of(cfg)["protocol"]["dataset"] == "own_v0"


def test_image_ids_that_are_strings(own, world):
    dataset = json.loads(as_coco(world, world.parent / "plain.json").read_text())
    for image in dataset["images"]:
        image["id"] = f"picture {image['id']}"
    for annotation in dataset["annotations"]:
        annotation["image_id"] = f"picture {annotation['image_id']}"
    cfg = own(dataset)
    do_train(cfg)
    written = json.loads(Path(cfg.train.output_dir, "coco_instances_results.json").read_text())
    assert {r["image_id"] for r in written} <= {i["id"] for i in dataset["images"]}
    assert results_of(cfg)["protocol"]["images"] == 12


def test_a_test_set_without_annotations(own, tmp_path, world, caplog):
    cfg = own()
    kept_back = as_coco(world, tmp_path / "test.json", annotations=[])
    cfg.data.val.json = str(kept_back)
    with caplog.at_level("INFO"):
        do_train(cfg)
    predictions = Path(cfg.train.output_dir, "coco_instances_results.json")
    assert f"The detections are in {predictions}" in caplog.text
    assert json.loads(predictions.read_text())
    assert not Path(cfg.train.output_dir, "results.json").exists()


def test_validation_in_another_order_of_ids(own, tmp_path, world):
    """The same categories with other ids, so in another contiguous order: the same AP."""
    cfg = own(max_iter=2)
    do_train(cfg)
    expected = results_of(cfg)["metrics"]["bbox"]
    dataset = json.loads(as_coco(world, tmp_path / "other.json").read_text())
    for record in (*dataset["categories"], *dataset["annotations"]):
        key = "id" if "name" in record else "category_id"
        record[key] = 20 - record[key]
    (tmp_path / "other.json").write_text(json.dumps(dataset))
    cfg = own(max_iter=2)
    cfg.data.val.json = str(tmp_path / "other.json")
    assert instantiate(cfg.data.val).names == ("blue thing", "green thing", "red thing")
    do_train(cfg, resume=True)  # nothing is left to train: it evaluates
    assert results_of(cfg)["metrics"]["bbox"] == pytest.approx(expected, nan_ok=True)


def test_evaluation_alone_takes_the_vocabulary_of_the_training(own, tmp_path, world):
    """Also on a file that has its categories in another order, or fewer of them."""
    cfg = own()
    do_train(cfg)
    expected = results_of(cfg)["metrics"]["bbox"]
    dataset = json.loads(Path(cfg.data.val.json).read_text())
    for record in (*dataset["categories"], *dataset["annotations"]):
        key = "id" if "name" in record else "category_id"
        record[key] = 20 - record[key]
    cfg.data.val.json = str(tmp_path / "other.json")
    Path(cfg.data.val.json).write_text(json.dumps(dataset))
    cfg.train.init_checkpoint = f"{cfg.train.output_dir}/model_final.pth"
    before = Path(cfg.clip.text_embeddings).read_bytes()
    do_eval_only(cfg)
    assert results_of(cfg)["metrics"]["bbox"] == pytest.approx(expected, nan_ok=True)
    dataset["categories"] = dataset["categories"][:2]
    kept = {c["id"] for c in dataset["categories"]}
    dataset["annotations"] = [a for a in dataset["annotations"] if a["category_id"] in kept]
    Path(cfg.data.val.json).write_text(json.dumps(dataset))
    do_eval_only(cfg)
    assert results_of(cfg)["protocol"]["categories"] == 2
    assert Path(cfg.clip.text_embeddings).read_bytes() == before


def test_a_test_set_without_annotations_evaluated_alone(own, tmp_path, world):
    """An earlier results.json does not stay beside the new detections."""
    cfg = own()
    do_train(cfg)
    cfg.train.init_checkpoint = f"{cfg.train.output_dir}/model_final.pth"
    cfg.data.val.json = str(as_coco(world, tmp_path / "test.json", annotations=[]))
    assert do_eval_only(cfg) == {}
    assert Path(cfg.train.output_dir, "coco_instances_results.json").is_file()
    assert not Path(cfg.train.output_dir, "results.json").exists()


def test_lvis_boxes_without_polygons(own, world, tmp_path):
    dataset = json.loads((world / "annotations.json").read_text())
    for image in dataset["images"]:
        del image["coco_url"]
        image["file_name"] = f"{image['id']}.png"
    for annotation in dataset["annotations"]:
        annotation["segmentation"] = []
    cfg = own(dataset)
    do_train(cfg)
    results = results_of(cfg)
    assert "lvis-api" in results["protocol"]["evaluator"] and "APf" in results["metrics"]["bbox"]


def test_a_data_set_of_a_function(own, catalog):
    cfg = own()
    data = open_dataset(json=cfg.data.train.json, images=cfg.data.train.images)
    DatasetCatalog.register("own_function", lambda: list(all_records(data)))
    MetadataCatalog.get("own_function").thing_classes = list(data.names)
    for part in (cfg.data.train, cfg.data.val):
        part.update(json=None, images=None, dataset="own_function")
    do_train(cfg)
    assert "pycocotools" in results_of(cfg)["protocol"]["evaluator"]


def test_detectron2s_evaluator_of_other_classes_is_refused(own, world, catalog):
    dataset = json.loads(as_coco(world, world.parent / "plain.json").read_text())
    for i, annotation in enumerate(dataset["annotations"]):
        annotation["id"] = i + 1
    cfg = own(dataset)
    cfg.data.leave_out = ["red thing"]
    register_coco_instances("own_v0", {}, cfg.data.val.json, cfg.data.val.images)
    cfg.data.val.update(json=None, images=None, dataset="own_v0")
    cfg.dataloader.evaluator = LazyCall(COCOEvaluator)(
        dataset_name="own_v0", output_dir="${train.output_dir}"
    )
    refused(
        cfg,
        "COCOEvaluator has 3 classes, the first 'red thing', and the detector 2, the first 'g",
    )


def test_embeddings_of_other_pictures_with_the_same_ids(own, world, tmp_path):
    cfg = own()
    do_train(cfg)
    pictures = tmp_path / "others"
    pictures.mkdir()
    dataset = json.loads(Path(cfg.data.train.json).read_text())
    for image in dataset["images"]:
        (pictures / f"other{image['id']}.png").write_bytes(
            (world / "train2017" / image["file_name"]).read_bytes()
        )
        image["file_name"] = f"other{image['id']}.png"
    cfg = own(dataset)
    cfg.data.train.images = cfg.data.val.images = str(pictures)
    with pytest.raises(ValueError, match="(?s)was made for something else.*pictures_sha256"):
        do_train(cfg)


def test_a_resumed_run_keeps_its_schedule(own, monkeypatch):
    """Also on another number of GPUs."""
    cfg = own(max_iter=None)
    data = instantiate(cfg.data.train)
    complete_schedule(cfg, data)
    assert LazyConfig.load(f"{cfg.train.output_dir}/config.yaml").train.max_iter == 10_000
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 4)
    again = own(max_iter=None)
    complete_schedule(again, data, resume=True)
    assert again.dataloader.train.total_batch_size == 4 and again.train.max_iter == 10_000
    assert again.optimizer.lr == cfg.optimizer.lr
    complete_schedule(new := own(max_iter=None), data)
    assert new.dataloader.train.total_batch_size == 16


def refused(cfg, match):
    """Before the first step: no checkpoint, no embeddings of pictures."""
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        do_train(cfg)
    assert not list(Path(cfg.train.output_dir).glob("*.pth"))
    assert not Path(cfg.clip.image_embeddings).exists()


def test_no_data_set_is_given(own):
    cfg = own()
    cfg.data.train.update(json=None, images=None)
    refused(cfg, r"data\.train: no data set: give a file and a folder")


def test_categories_that_training_does_not_know(own, tmp_path, world):
    cfg = own()
    names = ["red thing", "green thing", "zebra"]
    categories = [{"id": i, "name": n} for i, n in zip((3, 10, 17), names, strict=True)]
    cfg.data.val.json = str(as_coco(world, tmp_path / "val.json", categories=categories))
    refused(cfg, r"data\.val \(.*val\.json\) has 1 categor.* data\.train \(.*mine\.json\).*'zebra'")


def test_missing_pictures(own, tmp_path):
    cfg = own()
    cfg.data.val.images = str(tmp_path)
    refused(cfg, "12 of the 12 pictures of .* are missing, the first .*1.png")


def test_a_truncated_picture_is_named(own, world, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for source in (world / "train2017").iterdir():
        (pictures / source.name).write_bytes(source.read_bytes())
    content = (pictures / "3.png").read_bytes()
    (pictures / "3.png").write_bytes(content[: len(content) // 2])
    whole, cfg = own(), own()
    cfg.train.output_dir = str(tmp_path / "damaged")
    cfg.data.train.images = cfg.data.val.images = str(pictures)
    with pytest.raises(RuntimeError, match=r"1 images of .* could not be embedded, the first .*3"):
        do_train(cfg)
    cfg.model.image_alignment = None
    cfg.dataloader.train.mapper.embeddings = None
    cfg.train.max_iter = 10
    with pytest.raises(ValueError, match=r"3\.png can't be read as a picture"):
        do_train(cfg)
    do_train(whole)
    whole.data.val.images = str(pictures)
    whole.train.init_checkpoint = f"{whole.train.output_dir}/model_final.pth"
    with pytest.raises(ValueError, match=r"3\.png can't be read as a picture"):
        do_eval_only(whole)


@pytest.mark.parametrize(
    ("names", "first"),
    [(["blue", "green", "red"], "number 0: 'blue' and 'red thing'"), (["red thing"], "the number")],
)
def test_other_names_than_the_datas(own, tmp_path, names, first):
    cfg = own()
    (tmp_path / "names.txt").write_text("\n".join(names))
    cfg.clip.names = str(tmp_path / "names.txt")
    both = r"clip\.names=.*names\.txt has \d names, .*mine\.json has 3 categories; "
    refused(cfg, f"{both}they first differ in {first}")


def test_text_embeddings_of_other_names(own, tmp_path):
    cfg = own()
    cfg.clip.text_embeddings = str(tmp_path / "text.safetensors")
    reversed_names = ("blue thing", "green thing", "red thing")
    made = TextEmbeddings.random(reversed_names, 32)
    replace(made, clip_model="tiny").save(cfg.clip.text_embeddings)
    refused(cfg, "text.safetensors does not fit: .*another order.*'blue thing' instead of 'red")


def test_random_vectors_beside_clips_weights(own):
    cfg = own()
    TextEmbeddings.random(instantiate(cfg.data.train).names, 32).save(cfg.clip.text_embeddings)
    refused(cfg, "does not fit: It holds random vectors, and clip.weights is .*tiny.pt")


def test_stale_templates(own):
    cfg = own()
    prepare_text_embeddings(cfg, instantiate(cfg.data.train))
    cfg.clip.templates = "imagenet"
    refused(cfg, "does not fit: .* of 1 templates, the first 'a photo of a {}.', and 80 are asked")


def test_another_clip_of_the_same_width(own, make_clip):
    cfg = own()
    prepare_text_embeddings(cfg, instantiate(cfg.data.train))
    cfg.clip.weights = str(make_clip(vision_layers=(1, 1, 1, 2)))
    refused(cfg, r"does not fit: .* of CLIP model tiny \(sha256 .*, and the weights in use have")


def test_the_limit_of_detections_is_the_one_applied(own):
    cfg = own()
    cfg.dataloader.evaluator.max_dets_per_image = 5
    do_train(cfg)
    assert "at most 5 detections an image" in results_of(cfg)["protocol"]["ap"]


def test_without_clip_the_vectors_of_names_are_random(own):
    cfg = own(init_checkpoint="")
    cfg.clip.weights = cfg.clip.image_embeddings = None
    cfg.model.update(image_alignment=None, dense_scores=None)
    do_train(cfg)
    text = TextEmbeddings.load(cfg.clip.text_embeddings)
    assert text.clip_model == "random" and results_of(cfg)["metrics"]["bbox"]["AP"] >= 0
    other = TextEmbeddings.random(("zebra", "red thing"), 32)
    assert torch.equal(other.embeddings[1], text.embeddings[0])  # of the name alone


@pytest.mark.parametrize(
    ("pictures", "batch", "steps", "lr"),
    [(12, 4, 10_000, 1e-4), (5_000, 4, 75_000, 1e-4), (200_000, 4, 360_000, 1e-4)],
)
def test_the_schedule_follows_from_the_number_of_pictures(own, pictures, batch, steps, lr):
    cfg = own(max_iter=None)

    class Train:
        def __len__(self):
            return pictures

    complete_schedule(cfg, Train())
    assert cfg.dataloader.train.total_batch_size == batch
    assert (cfg.train.max_iter, cfg.optimizer.lr) == (steps, lr)
    assert cfg.train.eval_period == cfg.train.checkpointer.period == steps / 5
    assert cfg.lr_multiplier.warmup_length == pytest.approx(min(4_000, steps / 10) / steps)


@pytest.mark.parametrize(
    ("gpus", "batch", "lr"), [(1, 4, 1e-4), (4, 16, 2e-4), (8, 16, 2e-4), (32, 32, 2.8e-4)]
)
def test_the_batch_follows_from_the_number_of_gpus(own, monkeypatch, gpus, batch, lr):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: gpus)
    cfg = own()
    complete_schedule(cfg, open_dataset(json=cfg.data.train.json, images=cfg.data.train.images))
    assert cfg.dataloader.train.total_batch_size == batch and cfg.optimizer.lr == lr


def test_what_is_set_stays_as_it_is(own):
    cfg = own()
    cfg.dataloader.train.total_batch_size = 2
    cfg.optimizer.lr = 3e-3
    do_train(cfg)
    assert build_model(cfg) and cfg.optimizer.lr == 3e-3 and cfg.train.max_iter == 2


def test_a_16_bit_picture_trains(own, world, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for source in (world / "train2017").iterdir():
        grey = Image.open(source).convert("L")
        Image.fromarray(np.asarray(grey).astype("uint16") * 257).save(pictures / source.name)
    cfg = own()
    cfg.data.train.images = cfg.data.val.images = str(pictures)
    do_train(cfg)
    assert results_of(cfg)["metrics"]["bbox"]["AP"] >= 0
