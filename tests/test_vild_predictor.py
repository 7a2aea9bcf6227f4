"""Predictor and demo with ViLD: as with GridCLIP; novel is what training has not seen."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

import demo
from gridclip.predictor import Predictor
from gridclip.text import TextEmbeddings
from world import NAMES, save_untrained_vild

WORDS = ["blue thing", "kite", "red thing"]


@pytest.fixture(scope="module")
def folder(world, tiny_clip, tmp_path_factory):
    """config.yaml and detector.pth of a ViLD-ensemble."""
    return save_untrained_vild("ensemble", world, tiny_clip, tmp_path_factory.mktemp("vild"))


@pytest.fixture
def load(folder):
    def load(**kwargs):
        return Predictor(folder / "config.yaml", folder / "detector.pth", **kwargs)

    return load


@pytest.fixture
def picture(world):
    return Image.open(world / "train2017" / "1.png")


def assert_same(a, b):
    assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
    assert torch.equal(a.scores, b.scores) and torch.equal(a.pred_classes, b.pred_classes)


def test_training_vocabulary(load, picture):
    predictor = load()
    assert predictor.names == tuple(NAMES.values())
    assert predictor.model.classifier.is_novel.tolist() == [False, False, True]
    instances = predictor(picture)
    assert 0 < len(instances) <= 300 and instances.image_size == (96, 96)
    assert (instances.scores.diff() <= 0).all()


def test_own_words_from_the_start_and_later_are_the_same(load, picture):
    predictor, later = load(vocabulary=WORDS), load()
    later.set_vocabulary(WORDS)
    for each in (predictor, later):
        assert each.names == tuple(WORDS)
        assert each.model.classifier.is_novel.tolist() == [True, True, False]
    assert_same(predictor(picture), later(picture))
    predictor.set_vocabulary(list(NAMES.values()))
    assert predictor.model.classifier.is_novel.tolist() == [False, False, True]
    assert_same(predictor(picture), load()(picture))


def test_threads_share_a_predictor(load, world):
    """Each call keeps the vocabulary that it began with, whatever is set meanwhile."""
    pictures = [Image.open(path) for path in sorted((world / "train2017").iterdir())[:5]]
    predictor, vocabularies = load(), (WORDS, list(NAMES.values()))
    embedded = [load(vocabulary=words).model.classifier.text_embeddings for words in vocabularies]
    vocabularies = [
        TextEmbeddings(tuple(words), rows, (), "tiny", "")
        for words, rows in zip(vocabularies, embedded, strict=True)
    ]
    expected = []
    for vocabulary in vocabularies:
        predictor.set_vocabulary(vocabulary)
        expected.append([predictor(picture) for picture in pictures])
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(predictor, picture) for picture in 8 * pictures]
        while not all(future.done() for future in found):
            for vocabulary in vocabularies:
                predictor.set_vocabulary(vocabulary)
    for i, future in enumerate(found):
        scores = [results[i % 5].scores for results in expected]
        assert any(torch.equal(future.result().scores, each) for each in scores)


def test_what_is_novel_decides_the_ensembles_scores(load, picture):
    novel, base = load(vocabulary=["blue thing"]), load(vocabulary=["blue thing"])
    base.model.classifier.is_novel[:] = False
    assert not torch.equal(novel(picture).scores, base(picture).scores)


def test_missing_training_vocabulary_is_computed(load, tmp_path, picture):
    path = tmp_path / "text.safetensors"
    predictor = load(vocabulary=WORDS, overrides=[f"clip.text_embeddings={path}"])
    assert path.is_file()
    assert_same(predictor(picture), load(vocabulary=WORDS)(picture))


def test_detections_are_limited_as_configured(load, picture):
    limit = "model.roi_heads.box_predictor.test_topk_per_image=7"
    predictor = load(overrides=[limit])
    assert predictor.model.max_detections_per_image == 7 and len(predictor(picture)) == 7


def test_demo(folder, world, tmp_path):
    demo.main(
        ["--config-file", str(folder / "config.yaml"), "--weights", str(folder / "detector.pth")]
        + ["--vocabulary", "kite, red thing", "--input", str(world / "train2017")]
        + ["--output", str(tmp_path), "--score-threshold", "0"]
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{i}.{suffix}" for i in range(1, 13) for suffix in ("jpg", "json")
    }
    found = json.loads((tmp_path / "1.json").read_text())["detections"]
    assert found and {d["name"] for d in found} <= {"kite", "red thing"}
