import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from gridclip import queries as queries_module
from gridclip.clip_weights import load_clip
from gridclip.queries import QueryEncoder
from gridclip.text import as_text_embeddings


@pytest.fixture(scope="module")
def archive(make_clip):
    torch.manual_seed(0)
    return make_clip(embed_dim=32, vision_width=16)


@pytest.fixture(scope="module")
def encoder(archive):
    return QueryEncoder(archive, "single")


@pytest.fixture(scope="module")
def picture():
    image = Image.effect_noise((120, 90), 60).convert("RGB")
    ImageDraw.Draw(image).rectangle((20, 10, 70, 60), fill=(250, 30, 30))
    return image


def words(archive, *names):
    return as_text_embeddings(names, archive, "single").embeddings


def test_names_are_embedded_as_elsewhere(encoder, archive):
    embedded = encoder.embed(["red shoe", "cat"])
    assert embedded.names == ("red shoe", "cat")
    torch.testing.assert_close(embedded.embeddings, words(archive, "red shoe", "cat"))
    assert encoder.embed(embedded) is embedded


def test_a_label_may_differ_from_its_words(encoder, archive):
    labels = {"helmet": ["hard hat", "safety helmet"], "cat": "cat", "Big_cat": ["Cat"]}
    embedded = encoder.embed(labels)
    assert embedded.names == ("helmet", "cat", "Big cat")
    hat, helmet, cat = words(archive, "hard hat", "safety helmet", "cat")
    expected = torch.stack([F.normalize(hat + helmet, dim=0), cat, cat])
    torch.testing.assert_close(embedded.embeddings, expected)
    assert embedded.clip_sha256 == load_clip(archive)[1].sha256


def test_an_example_is_the_crop_at_two_scales(encoder, archive, picture):
    model, _ = load_clip(archive)
    preprocess = __import__("clip").clip._transform(model.visual.input_resolution)
    n = model.visual.input_resolution
    box = (20, 10, 70, 60)
    # 1.5 times as large about the centre, cut at the upper border.
    crops = [picture.crop(box), picture.crop((7, 0, 83, 73))]
    inputs = torch.stack([preprocess(x.resize((n, n), Image.Resampling.BICUBIC)) for x in crops])
    with torch.no_grad():
        expected = F.normalize(F.normalize(model.encode_image(inputs), dim=1).mean(dim=0), dim=0)
    found = encoder.embed_example(picture, box)
    assert found @ expected > 0.999
    assert encoder.embed_example(picture, (60, 40, 120, 90)) @ expected < 0.999


def test_boxes_are_cut_at_the_border(encoder, picture):
    inside = encoder.embed_example(picture, (60, 40, 120, 90))
    assert torch.equal(encoder.embed_example(picture, (60, 40, 400, 900)), inside)
    assert torch.equal(encoder.embed_example(np.asarray(picture), (60, 40, 120, 90)), inside)


def test_words_and_examples_have_the_same_weight(encoder, archive, picture):
    boxes = (20, 10, 70, 60), (60, 40, 120, 90)
    query = ["red shoe", *((picture, box) for box in boxes)]
    first, second = (encoder.embed_example(picture, box) for box in boxes)
    word = words(archive, "red shoe")[0]
    expected = F.normalize(word + F.normalize(first + second, dim=0), dim=0)
    torch.testing.assert_close(encoder.embed({"shoe": query}).embeddings[0], expected)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ({}, ValueError, "no category names"),
        ({"cup": []}, ValueError, "'cup' stands for nothing"),
        ({"cup": ["  "]}, ValueError, "'cup' stands for nothing"),
        ({"cup": ["mug"], " Cup": ["glass"]}, ValueError, "0 and 1 have the same name"),
        ({"cup": [("none.png", (0, 0, 5, 5))]}, FileNotFoundError, "'cup': No picture at none"),
        ({"cup": ["mug", ("none.png",)]}, ValueError, "'cup': an example is a picture and a box"),
        ({"cup": [7]}, ValueError, "'cup': an example is a picture and a box, not 7"),
    ],
)
def test_labels_without_a_meaning_are_named(encoder, labels, error, message):
    with pytest.raises(error, match=message):
        encoder.embed(labels)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((10, 10, 10, 30), "no area in its picture of 120 x 90"),
        ((200, 10, 300, 30), "no area"),
        ((50, 50, 10, 10), "no area"),
        ((0, 0, float("nan"), 10), "no area"),
        ((0, 0, 10), "x0, y0, x1, y1 in pixels, not"),
    ],
)
def test_boxes_without_an_area_are_named(encoder, picture, box, message):
    with pytest.raises(ValueError, match=f"'cup': .*{message}"):
        encoder.embed({"cup": [(picture, box)]})


def test_clip_is_loaded_once_however_many_threads_ask(archive, monkeypatch):
    loads = []
    barrier = threading.Barrier(4)

    def load(*args):
        loads.append(args)
        return load_clip(*args)

    monkeypatch.setattr(queries_module, "load_clip", load)
    encoder = QueryEncoder(archive, "single")

    def embed(i):
        barrier.wait()
        return encoder.embed([f"thing {i}"]).embeddings

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(embed, range(4)))
    assert len(loads) == 1
    torch.testing.assert_close(torch.cat(found), words(archive, *(f"thing {i}" for i in range(4))))


def test_without_weights_names_cannot_be_embedded():
    with pytest.raises(ValueError, match="knows of no CLIP weights"):
        QueryEncoder(None, "single").embed(["cat"])
    with pytest.raises(FileNotFoundError, match=r"No weights at 'none.pt'.*clip\.weights"):
        QueryEncoder("none.pt", "single").embed(["cat"])
