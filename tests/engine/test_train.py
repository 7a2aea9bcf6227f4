import json
from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import SimpleTrainer
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import get_event_storage

from gridclip.data.embedding_store import EmbeddingStore
from gridclip.data.store import StoreError
from gridclip.engine import BackboneLRFactor, do_eval_only, do_train
from gridclip.engine.prepare import (
    check_embeddings,
    prepare_embeddings,
    prepare_text_embeddings,
)
from gridclip.engine.train import build_model, build_optimizer, do_test, training_precision
from gridclip.engine.trainer import Trainer
from gridclip.evaluation import read_results
from gridclip.modeling import CLIPFPN, GridCLIP
from gridclip.text import TextEmbeddings

LOSSES = ("loss_grid_alignment", "loss_box_reg", "loss_quality", "loss_image_alignment")


def prepare(cfg):
    data = instantiate(cfg.data.train)
    prepare_text_embeddings(cfg, data)
    prepare_embeddings(cfg, data)


@pytest.fixture
def step_losses(monkeypatch):
    """{iteration: [loss, ...]} of the steps as they run; metrics.json has smoothed values."""
    losses = {}
    write_metrics = SimpleTrainer._write_metrics

    def record(trainer, loss_dict, *args, **kwargs):
        losses[trainer.iter] = [loss_dict[name].item() for name in LOSSES]
        write_metrics(trainer, loss_dict, *args, **kwargs)

    monkeypatch.setattr(SimpleTrainer, "_write_metrics", record)
    return losses


def test_trains_evaluates_and_leaves_results(world_config):
    cfg = world_config(max_iter=3)
    do_train(cfg)
    results = read_results(f"{cfg.train.output_dir}/results.json")
    assert results["iterations"] == 3 and results["seed"] == 0
    assert results["precision"] == "float32"
    assert results["protocol"]["images"] == 12
    assert results["protocol"]["split"] == "open-vocabulary"
    assert {"AP", "AP50", "AP75", "APr", "APc", "APf", "AP_novel", "AP_base"} <= set(
        results["metrics"]["bbox"]
    )
    assert results["config"]["model"]["_target_"] == "gridclip.modeling.GridCLIP"
    assert len(EmbeddingStore.open(cfg.clip.image_embeddings).manifest.image_ids) == 12


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_mixed_precision_is_the_gpus_best(world_config, monkeypatch, has_bfloat16):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    cfg = world_config()
    assert training_precision(cfg) is torch.float32
    cfg.train.amp.enabled = True
    assert training_precision(cfg) is (torch.bfloat16 if has_bfloat16 else torch.float16)
    cfg.train.amp.dtype = "float16"
    assert training_precision(cfg) is torch.float16


def test_evaluation_alone_gives_the_same_metrics(world_config):
    cfg = world_config(max_iter=3)
    do_train(cfg)
    trained = read_results(f"{cfg.train.output_dir}/results.json")["metrics"]
    cfg.train.init_checkpoint = f"{cfg.train.output_dir}/model_final.pth"
    do_eval_only(cfg)
    results = read_results(f"{cfg.train.output_dir}/results.json")
    assert results["metrics"]["bbox"] == pytest.approx(trained["bbox"], nan_ok=True)
    assert results["weights"].endswith("model_final.pth")


def test_averaged_weights_are_what_is_evaluated(world_config):
    cfg = world_config(max_iter=3)
    cfg.train.ema.update(enabled=True, decay=0.5)
    do_train(cfg)
    saved = torch.load(f"{cfg.train.output_dir}/model_final.pth", weights_only=True)
    key = "head.grid_embedding.weight"
    assert not torch.equal(saved["model"][key], saved["ema"][f"module.{key}"])
    trained = read_results(f"{cfg.train.output_dir}/results.json")["metrics"]
    cfg.train.init_checkpoint = f"{cfg.train.output_dir}/model_final.pth"
    do_eval_only(cfg)
    again = read_results(f"{cfg.train.output_dir}/results.json")["metrics"]
    assert again["bbox"] == pytest.approx(trained["bbox"], nan_ok=True)


@pytest.fixture
def same_every_time():
    """oneDNN's convolutions depend in the last bit on where their memory lies, and TorchScript
    rewrites a function after its first calls in a process."""
    with torch.backends.mkldnn.flags(enabled=False), torch.jit.optimized_execution(False):
        yield


@pytest.mark.usefixtures("same_every_time")
@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
def test_same_seed_same_result(world_config, tmp_path, step_losses, dtype):
    """In each precision; another seed has other losses."""
    outcomes = []
    for name in ("first", "second", "other seed"):
        cfg = world_config(max_iter=4, eval_period=0, seed=int(name == "other seed"))
        cfg.train.output_dir = str(tmp_path / name)
        cfg.train.amp.update(enabled=dtype is not None)
        if dtype is not None:
            cfg.train.amp.dtype = dtype
        prepare(cfg)
        seed_all_rng(cfg.train.seed)
        do_train(cfg)
        saved = torch.load(f"{cfg.train.output_dir}/model_final.pth", weights_only=True)
        outcomes.append((dict(step_losses), saved["model"]))
        assert read_results(f"{cfg.train.output_dir}/results.json")["precision"] == (
            dtype or "float32"
        )
        step_losses.clear()
    (losses, weights), (again, same), (other, _) = outcomes
    assert losses == again != other and len(losses) == 4
    assert all(torch.equal(same[name], value) for name, value in weights.items())


def test_a_skipped_step_leaves_model_average_and_optimizer(world_config, monkeypatch):
    """A batch whose embeddings are damaged; the iteration is in metrics.json, and goes on."""
    cfg = world_config(max_iter=4, eval_period=0, log_period=1)
    cfg.train.ema.update(enabled=True, decay=0.5)
    cfg.train.checkpointer.update(period=1, max_to_keep=9)
    forward = GridCLIP.forward

    def damaged(model, batch):
        if model.training and get_event_storage().iter == 2:
            batch[1]["image_embeddings"] = torch.full_like(batch[1]["image_embeddings"], torch.nan)
        return forward(model, batch)

    monkeypatch.setattr(GridCLIP, "forward", damaged)
    do_train(cfg)
    folder = Path(cfg.train.output_dir)
    saved = [torch.load(folder / f"model_{i:07d}.pth", weights_only=True) for i in range(3)] + [
        torch.load(folder / "model_final.pth", weights_only=True)
    ]
    before, skipped, after = (
        {**x["model"], **x["ema"], **_tensors(x["trainer"]["optimizer"]["state"])}
        for x in saved[1:]
    )
    assert all(torch.equal(skipped[name], value) for name, value in before.items())
    assert not torch.equal(after["loss_normalizer"], before["loss_normalizer"])
    key = "head.grid_embedding.weight"
    assert not torch.equal(after[f"module.{key}"], before[f"module.{key}"])
    assert saved[2]["trainer"]["iteration"] == 2
    (line,) = map(json.loads, (folder / "skipped_steps.jsonl").read_text().splitlines())
    assert line["iteration"] == 2 and line["what"] == "loss_image_alignment is nan"
    assert line["losses"]["loss_image_alignment"] == "nan" and len(line["image_ids"]) == 4
    (bad,) = line["bad_inputs"]
    assert bad.endswith(".png: image_embeddings")
    metrics = list(map(json.loads, (folder / "metrics.json").read_text().splitlines()))
    counts = {x["iteration"]: x["skipped_steps"] for x in metrics if "skipped_steps" in x}
    assert counts == {0: 0, 1: 0, 2: 1, 3: 1}
    assert {x["iteration"] for x in metrics if "total_loss" in x} == {0, 1, 3}


def _tensors(state):
    return {f"{i}.{k}": v for i, values in state.items() for k, v in values.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("same_every_time")
@pytest.mark.parametrize("averaging", [False, True])
def test_resumed_training_equals_uninterrupted(world_config, tmp_path, step_losses, averaging):
    def config(name, **train):
        cfg = world_config(max_iter=20, eval_period=0, **train)
        cfg.train.ema.update(enabled=averaging, decay=0.9)
        cfg.train.output_dir = str(tmp_path / name)
        cfg.train.checkpointer.period = 8
        return cfg

    whole = config("whole")
    seed_all_rng(0)
    do_train(whole)
    expected = dict(step_losses)
    step_losses.clear()

    class Killed(BaseException):
        pass

    cut = config("cut")
    seed_all_rng(0)
    run_step = Trainer.run_step

    def dies_in_step_13(trainer):
        if trainer.iter == 13:
            raise Killed
        run_step(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "run_step", dies_in_step_13)
        with pytest.raises(Killed):
            do_train(cut)
    assert (tmp_path / "cut" / "last_checkpoint").read_text() == "model_0000007.pth"
    seed_all_rng(12345)  # nothing may depend on where the generator stands
    do_train(cut, resume=True)

    assert set(expected) == set(range(20))
    assert step_losses == expected
    final = [
        torch.load(f"{c.train.output_dir}/model_final.pth", weights_only=True) for c in (whole, cut)
    ]
    for part in ("model", "ema") if averaging else ("model",):
        for key, value in final[0][part].items():
            assert torch.equal(final[1][part][key], value), key


def test_best_value_survives_a_resume_and_the_best_weights_are_not_resumed(world_config):
    cfg = world_config(max_iter=4, eval_period=1)
    cfg.train.checkpointer.period = 2
    do_train(cfg)
    saved = torch.load(f"{cfg.train.output_dir}/model_final.pth", weights_only=True)
    best = saved["trainer"]["hooks"]["ResumableBestCheckpointer"]
    assert best["best_metric"] >= 0 and best["best_iter"] < 4
    with open(f"{cfg.train.output_dir}/last_checkpoint") as file:
        assert file.read() == "model_final.pth"


def test_dry_run_builds_all_and_keeps_nothing(world_config, caplog):
    cfg = world_config(max_iter=1000)
    with caplog.at_level("INFO", logger="detectron2.gridclip"):
        do_train(cfg, dry_run=True)
    assert "Dry run: losses" in caplog.text
    assert not list((EmbeddingStore.open(cfg.clip.image_embeddings).path.parent).glob("*.pth"))


def test_stale_precomputed_files_are_refused(world_config, tmp_path):
    cfg = world_config(max_iter=1)
    prepare(cfg)
    text = TextEmbeddings.load(cfg.clip.text_embeddings)
    other = TextEmbeddings(text.names, text.embeddings, text.templates, "RN101", "0" * 64)
    other.save(cfg.clip.text_embeddings)
    with pytest.raises(ValueError, match="RN101"):
        prepare_embeddings(cfg, instantiate(cfg.data.train))
    TextEmbeddings(("a", "b"), text.embeddings[:2], (), "RN50", "").save(cfg.clip.text_embeddings)
    with pytest.raises(ValueError, match="categories"):
        prepare_text_embeddings(cfg, instantiate(cfg.data.train))
    cfg.clip.windows = "tiles9"
    with pytest.raises(StoreError, match="regions"):
        prepare_embeddings(cfg, instantiate(cfg.data.train))


def test_stale_files_are_refused_before_the_data_are_read(world_config, monkeypatch):
    cfg = world_config(max_iter=1)
    check_embeddings(cfg)  # nothing is there yet
    prepare(cfg)
    check_embeddings(cfg)

    def read(*_):
        raise AssertionError("the data were read")

    monkeypatch.setattr("gridclip.engine.train.open_data", read)
    with pytest.raises(AssertionError, match="were read"):
        do_train(cfg)
    windows, cfg.clip.windows = cfg.clip.windows, "tiles9"
    with pytest.raises(StoreError, match="its regions are"):
        do_train(cfg)
    cfg.clip.windows = windows
    text = TextEmbeddings.load(cfg.clip.text_embeddings)
    other = TextEmbeddings(text.names, text.embeddings, text.templates, "RN101", "0" * 64)
    other.save(cfg.clip.text_embeddings)
    with pytest.raises(ValueError, match="RN101"):
        do_train(cfg)
    Path(cfg.clip.text_embeddings).unlink()
    Path(cfg.clip.image_embeddings, "manifest.json").unlink()
    with pytest.raises(StoreError, match="no embedding store"):
        do_train(cfg)


def test_backbone_learns_slower_and_the_temperature_does_not_decay(world_config):
    cfg = world_config()
    prepare_text_embeddings(cfg, instantiate(cfg.data.train))
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    backbone = groups[model.backbone.bottom_up.layer2[0].conv1.weight]
    head = groups[model.head.grid_embedding.weight]
    assert backbone["lr"] == pytest.approx(head["lr"] / 10)
    assert groups[model.classifier.log_scale]["weight_decay"] == 0 < head["weight_decay"]
    assert BackboneLRFactor(0.1)("head.grid_embedding.weight") == 1.0
    assert {id(p) for p in groups} == {id(p) for p in model.parameters() if p.requires_grad}


def test_evaluation_in_half_precision(world_config, monkeypatch):
    """``train.inference`` is heeded, and the model that is trained stays as it is."""
    cfg = world_config()
    prepare_text_embeddings(cfg, instantiate(cfg.data.train))
    model = build_model(cfg)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    forward, dtypes = CLIPFPN.forward, set()

    def record(backbone, x):
        features = forward(backbone, x)
        dtypes.add(features["p3"].dtype)
        return features

    monkeypatch.setattr(CLIPFPN, "forward", record)
    cfg.train.inference.dtype = "bfloat16"
    evaluator = instantiate(cfg.dataloader.evaluator)
    results = do_test(cfg, model.train(), evaluator)
    assert dtypes == {torch.bfloat16} and results["bbox"]["AP"] >= 0
    assert model.training and all(
        torch.equal(value, before[key]) for key, value in model.state_dict().items()
    )
    cfg.train.inference.dtype = "int8"
    with pytest.raises(ValueError, match="train.inference.dtype is 'int8': take one of float32"):
        do_test(cfg, model, evaluator)


def test_config_written_by_a_run_can_be_loaded(world_config):
    cfg = world_config(max_iter=1)
    prepare_text_embeddings(cfg, instantiate(cfg.data.train))
    path = f"{cfg.train.output_dir}/config.yaml"
    LazyConfig.save(cfg, path)
    loaded = LazyConfig.load(path)
    assert instantiate(loaded.model).num_classes == 3


def test_batches_show_no_novel_category(world_config):
    """What reaches the model in training: no box, negative or sampling weight of category 3."""
    cfg = world_config()
    prepare(cfg)
    model = build_model(cfg)
    assert model.federated_weights.tolist() == pytest.approx([8**0.5, 8**0.5, 0.0])
    iterator = iter(instantiate(cfg.dataloader.train))
    for _ in range(6):
        for x in next(iterator):
            assert 2 not in x["instances"].gt_classes
            assert 2 not in x["negative_classes"]
            assert 2 not in x["not_exhaustive_classes"]


def test_checkpoint_without_averaged_weights_is_refused(world_config):
    cfg = world_config(max_iter=1)
    do_train(cfg)
    cfg.train.init_checkpoint = f"{cfg.train.output_dir}/model_final.pth"
    cfg.train.ema.enabled = True
    with pytest.raises(ValueError, match="no averaged weights"):
        do_eval_only(cfg)


@pytest.mark.parametrize("weights", ["clip", ""])
def test_evaluation_without_a_detector_is_refused(world_config, weights):
    cfg = world_config()
    if not weights:
        cfg.train.init_checkpoint = ""
    message = "tiny.pt holds a CLIP model.*" if weights else "No weights are given.*"
    with pytest.raises(ValueError, match=message + "train.init_checkpoint=path/to/model_final.pth"):
        do_eval_only(cfg)
    assert not Path(cfg.train.output_dir, "results.json").exists()


def test_weights_of_other_towers_are_refused_everywhere(world_config):
    """In evaluation, as the start of a training, and when a run is resumed."""
    cfg = world_config(max_iter=1, eval_period=0)
    do_train(cfg)
    cfg.train.init_checkpoint = f"{cfg.train.output_dir}/model_final.pth"
    cfg.train.max_iter = 2
    cfg.model.head.conv_dims = [64, 64]
    for run in (do_eval_only, do_train, partial(do_train, resume=True)):
        with pytest.raises(ValueError, match="model_final.pth holds another.*it has nothing, not"):
            run(cfg)
