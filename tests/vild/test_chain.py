"""ViLD from nothing: ViLD-text, its proposals, the teacher's regions, ViLD; killed and resumed."""

from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import SimpleTrainer
from detectron2.utils.env import seed_all_rng
from PIL import Image

import precompute as script
from gridclip.data.embedding_store import EmbeddingStore
from gridclip.data.proposal_store import ProposalStore
from gridclip.data.store import StoreError
from gridclip.engine import do_eval_only, do_train
from gridclip.engine.prepare import (
    check_embeddings,
    prepare_embeddings,
    prepare_text_embeddings,
)
from gridclip.engine.trainer import Trainer
from gridclip.evaluation import read_results
from gridclip.predictor import Predictor
from gridclip.text import TextEmbeddings
from world import NAMES, tiny_vild_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chain(world, tiny_clip, tmp_path_factory):
    """Makes configs whose stores lie together; ViLD-text is trained, its proposals are stored."""
    folder = tmp_path_factory.mktemp("chain")

    def make(variant, name, **train):
        return tiny_vild_config(variant, world, tiny_clip, folder / name, **train)

    seed_all_rng(0)
    text = make("text", "text", max_iter=4, eval_period=0)
    do_train(text)
    LazyConfig.save(text, str(folder / "text.yaml"))
    arguments = ["proposals", "--config-file", str(folder / "text.yaml"), "--num-workers", "0"]
    arguments += ["--weights", str(folder / "text" / "model_final.pth"), "--max-proposals", "5"]
    assert script.main(arguments) == 0
    return make


def test_text_needs_no_stores(chain):
    cfg = chain("text", "text")
    results = read_results(f"{cfg.train.output_dir}/results.json")
    assert results["iterations"] == 4 and results["protocol"]["novel_classes"] == 1
    assert results["config"]["model"]["_target_"] == "gridclip.vild.ViLD"
    assert "at most 300" in results["protocol"]["ap"]


def test_fvlm_trains_evaluates_and_answers_own_words(chain, world):
    cfg = chain("fvlm", "fvlm", max_iter=3, eval_period=0)
    do_train(cfg)
    cfg.train.init_checkpoint = f"{cfg.train.output_dir}/model_final.pth"
    trained = read_results(f"{cfg.train.output_dir}/results.json")["metrics"]["bbox"]
    do_eval_only(cfg)
    again = read_results(f"{cfg.train.output_dir}/results.json")["metrics"]["bbox"]
    assert again == pytest.approx(trained, nan_ok=True)
    predictor = Predictor(cfg, cfg.train.init_checkpoint, vocabulary=["zebra"])
    picture = Image.open(world / "train2017" / "1.png")
    for words in (["zebra"], ["red thing", "zebra"], list("abcdefgh")):
        predictor.set_vocabulary(words)
        instances = predictor(picture)
        assert len(instances) > 0 and set(instances.pred_classes.tolist()) <= set(range(len(words)))


def test_proposals_are_of_all_images_in_their_own_pixels(chain, world):
    store = ProposalStore.open(chain("vild", "x").clip.proposals)
    manifest = store.manifest
    assert (manifest.dataset, manifest.max_proposals) == ("annotations.json", 5)
    assert store.counts.tolist() == [5] * 12
    for image_id in store.manifest.image_ids:
        boxes, _ = store.lookup(image_id)
        assert (boxes >= 0).all() and (boxes <= 96).all()


@pytest.mark.parametrize("variant", ["vild", "ensemble"])
def test_trains_evaluates_and_answers_own_words(chain, variant, world):
    cfg = chain(variant, variant, max_iter=3)
    do_train(cfg)
    results = read_results(f"{cfg.train.output_dir}/results.json")
    assert results["iterations"] == 3
    assert {"AP", "APr", "APc", "APf", "AP_novel", "AP_base"} <= set(results["metrics"]["bbox"])
    regions = EmbeddingStore.open(cfg.clip.region_embeddings)
    proposals = ProposalStore.open(cfg.clip.proposals)
    assert regions.manifest.regions_sha256 == proposals.digest()
    assert np.array_equal(regions.lookup(7)[0], proposals.lookup(7)[0])

    weights = f"{cfg.train.output_dir}/model_final.pth"
    cfg.train.init_checkpoint = weights
    trained = results["metrics"]["bbox"]
    do_eval_only(cfg)
    again = read_results(f"{cfg.train.output_dir}/results.json")["metrics"]["bbox"]
    assert again == pytest.approx(trained, nan_ok=True)

    predictor = Predictor(cfg, weights, vocabulary=["red thing", "zebra", "blue thing"])
    # Trained on two of these: "blue thing" is the rare one, "zebra" nobody knows.
    assert predictor.model.classifier.is_novel.tolist() == [False, True, True]
    picture = Image.open(world / "train2017" / "1.png")
    instances = predictor(picture)
    assert 0 < len(instances) <= 300 and set(instances.pred_classes.tolist()) <= {0, 1, 2}
    predictor.set_vocabulary(["green thing"])
    assert predictor.model.classifier.is_novel.tolist() == [False]
    assert set(predictor(picture).pred_classes.tolist()) == {0}
    whole = Predictor(cfg, weights)
    assert whole.names == tuple(NAMES.values())
    assert whole.model.classifier.is_novel.tolist() == [False, False, True]


def test_batches_carry_regions_and_no_novel_category(chain):
    cfg = chain("vild", "batches")
    train = instantiate(cfg.data.train)
    prepare_text_embeddings(cfg, train)
    prepare_embeddings(cfg, train)
    iterator, seen = iter(instantiate(cfg.dataloader.train)), Counter()
    for _ in range(6):
        for x in next(iterator):
            seen.update(x["instances"].gt_classes.tolist())
            assert len(x["region_boxes"]) == len(x["region_embeddings"]) <= 5
            seen["regions"] += len(x["region_boxes"])
    assert seen[0] and seen[1] and seen["regions"] and not seen[2]


def test_region_embeddings_want_proposals(chain, tmp_path):
    cfg = chain("vild", "no_proposals")
    cfg.clip.proposals = str(tmp_path / "none")
    with pytest.raises(
        StoreError, match="(?s)precompute.py proposals.*base categories.*train_net.py"
    ):
        check_embeddings(cfg)  # before the data are read
    assert not (tmp_path / "none").exists()


def test_region_embeddings_want_the_text_embeddings_teacher(chain, make_clip, tmp_path):
    cfg = chain("vild", "other_teacher")
    cfg.clip.weights = str(make_clip(seed=1))
    cfg.clip.region_embeddings = str(tmp_path / "regions")
    TextEmbeddings.load(cfg.clip.text_embeddings)  # of the first teacher
    with pytest.raises(ValueError, match="is of CLIP model .*compute one of them anew"):
        prepare_embeddings(cfg, instantiate(cfg.data.train))


@pytest.fixture
def step_losses(monkeypatch):
    losses = {}
    write_metrics = SimpleTrainer._write_metrics

    def record(trainer, loss_dict, *args, **kwargs):
        losses[trainer.iter] = {name: loss.item() for name, loss in loss_dict.items()}
        write_metrics(trainer, loss_dict, *args, **kwargs)

    monkeypatch.setattr(SimpleTrainer, "_write_metrics", record)
    return losses


def test_resumed_training_equals_uninterrupted(chain, step_losses):
    class Killed(BaseException):
        pass

    def config(name):
        cfg = chain("ensemble", name, max_iter=10, eval_period=0)
        cfg.train.checkpointer.period = 4
        return cfg

    run_step = Trainer.run_step

    def dies_in_step_6(trainer):
        if trainer.iter == 6:
            raise Killed
        run_step(trainer)

    # oneDNN's convolutions depend in the last bit on where their memory lies.
    with torch.backends.mkldnn.flags(enabled=False):
        seed_all_rng(0)
        do_train(config("whole"))
        expected = dict(step_losses)
        step_losses.clear()
        seed_all_rng(0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "run_step", dies_in_step_6)
            with pytest.raises(Killed):
                do_train(config("cut"))
        seed_all_rng(12345)  # nothing may depend on where the generator stands
        do_train(config("cut"), resume=True)
    assert set(expected) == set(range(10)) and "loss_distillation" in expected[0]
    assert step_losses == expected
