from functools import partial

import clip
import numpy as np
import pytest
import torch
import torchvision.transforms as tv
from PIL import Image

from benchmark.random_clip import write_random_clip_archive
from drawings import random_image
from gridclip.data import teacher
from gridclip.data.embedding_store import EmbeddingStore
from gridclip.data.regions import Windows, normalised, window_crops, windows
from gridclip.data.store import StoreError
from gridclip.data.teacher import encode_images, precompute_embeddings
from ranks import run_ranks

pytestmark = pytest.mark.usefixtures("weights_read_once")

TEXT = dict(transformer_width=64, transformer_heads=1, transformer_layers=1)


@pytest.fixture
def records(tmp_path):
    """Six pictures of different sizes."""
    records = []
    for i, (height, width) in enumerate([(64, 64), (50, 90), (90, 50), (70, 70), (33, 41), (8, 8)]):
        file_name = tmp_path / "images" / f"{i}.png"
        file_name.parent.mkdir(exist_ok=True)
        Image.fromarray(random_image(height, width, seed=i)).save(file_name)
        records.append(dict(file_name=str(file_name), image_id=100 + i, height=height, width=width))
    return records


def precompute(records, path, archive, windows="whole", mirror=True, **kwargs):
    regions, kwargs = Windows(windows, mirror), dict(num_workers=0) | kwargs
    return precompute_embeddings(records, "toy_train", path, archive, regions, **kwargs)


def window_inputs(image, boxes, resolution):
    return normalised(torch.from_numpy(window_crops(image, boxes, resolution)))


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("size", [64, 100, 37])
@pytest.mark.parametrize("resolution", [64, 224])
def test_square_whole_picture_equals_clips_own_preprocessing(size, resolution):
    image = random_image(size, size, seed=size)
    expected = clip.clip._transform(resolution)(Image.fromarray(image))
    inputs = window_inputs(image, windows("whole"), resolution)
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs, expected[None])


def test_other_pictures_are_squashed():
    image = random_image(50, 90, seed=0)
    expected = tv.Compose(
        [
            tv.Resize((64, 64), interpolation=tv.InterpolationMode.BICUBIC),
            tv.ToTensor(),
            tv.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )(Image.fromarray(image))
    assert torch.equal(window_inputs(image, windows("whole"), 64)[0], expected)


def test_a_tile_is_a_picture_of_its_own():
    image = random_image(80, 120, seed=0)
    tiles = window_inputs(image, windows("tiles9"), 64)
    alone = window_inputs(np.ascontiguousarray(image[20:60, 60:120]), windows("whole"), 64)
    assert torch.equal(tiles[5], alone[0])  # second row, last column


def test_lookup_equals_clip(records, tmp_path, archive, model):
    report = precompute(records, tmp_path / "store", archive)
    assert report.done == 6 and report.failures == () and report.seconds > 0
    store, preprocess = EmbeddingStore.open(tmp_path / "store"), clip.clip._transform(64)
    for record in (records[0], records[3], records[5]):  # the square ones
        image = Image.open(record["file_name"])
        for mirrored in (False, True):
            if mirrored:
                image = image.transpose(Image.FLIP_LEFT_RIGHT)
            with torch.no_grad():
                expected = model.encode_image(preprocess(image)[None])
            expected = expected / expected.norm(dim=-1, keepdim=True)
            found = torch.from_numpy(store.lookup(record["image_id"], mirrored)[1])
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-4)
    assert np.abs(store.lookup(100)[1] - store.lookup(103)[1]).max() > 0.01


def test_manifest_says_what_was_done(records, tmp_path, archive):
    precompute(records, tmp_path / "store", archive, windows="whole+tiles9", mirror=False)
    store = EmbeddingStore.open(tmp_path / "store")
    manifest = store.manifest
    assert manifest.dataset == "toy_train" and manifest.image_ids == tuple(range(100, 106))
    assert manifest.teacher == "tiny" and len(manifest.teacher_sha256) == 64
    assert "64 x 64" in manifest.preprocessing
    assert manifest.regions == "whole+tiles9" and not manifest.mirror
    assert torch.equal(torch.from_numpy(store.lookup(100)[0]), windows("whole+tiles9"))
    assert store.counts.tolist() == [10] * 6 and manifest.max_regions == 10
    assert manifest.dim == 48
    assert manifest.arrays["embeddings"] == ((6, 10, 1, 48), np.float16)


@pytest.mark.parametrize("window_set", ["whole", "tiles9"])
def test_mirrored_lookup_equals_the_teacher_on_a_flipped_picture(
    records, tmp_path, archive, window_set
):
    flipped = []
    for record in records:
        file_name = record["file_name"].replace(".png", "_flipped.png")
        image = np.asarray(Image.open(record["file_name"]))[:, ::-1]
        Image.fromarray(np.ascontiguousarray(image)).save(file_name)
        flipped.append(record | dict(file_name=file_name))
    for name, dataset in (("plain", records), ("flipped", flipped)):
        precompute(dataset, tmp_path / name, archive, windows=window_set, batch_size=1)
    plain, mirrored = (EmbeddingStore.open(tmp_path / name) for name in ("plain", "flipped"))
    for image_id in plain.manifest.image_ids:
        expected = mirrored.lookup(image_id)[1]
        np.testing.assert_array_equal(plain.lookup(image_id, mirrored=True)[1], expected)
        assert np.abs(plain.lookup(image_id)[1] - expected).max() > 0.01


def test_exif_orientation_is_applied(tmp_path, archive):
    image, exif = random_image(40, 60, seed=1), Image.Exif()
    exif[274] = 6  # the camera was held upright: rotate by 90 degrees clockwise to show it
    Image.fromarray(np.ascontiguousarray(np.rot90(image))).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(image).save(tmp_path / "b.png")
    records = [
        dict(file_name=str(tmp_path / f"{i}.png"), image_id=i, height=40, width=60) for i in "ab"
    ]
    assert precompute(records, tmp_path / "store", archive, batch_size=1).failures == ()
    store = EmbeddingStore.open(tmp_path / "store")
    np.testing.assert_array_equal(store.lookup("a")[1], store.lookup("b")[1])


def test_grey_pictures_are_embedded(tmp_path, archive):
    Image.fromarray(random_image(40, 40, seed=1)[..., 0]).save(tmp_path / "a.png")
    record = dict(file_name=str(tmp_path / "a.png"), image_id=1)
    assert precompute([record], tmp_path / "store", archive).done == 1


def test_vision_transformers_teach_too(records, tmp_path):
    sizes = dict(embed_dim=24, image_resolution=32, vision_layers=1, vision_width=64)
    write_random_clip_archive(tmp_path / "vit.pt", **sizes, vision_patch_size=16, **TEXT)
    precompute(records, tmp_path / "store", tmp_path / "vit.pt")
    embedding = EmbeddingStore.open(tmp_path / "store").lookup(101)[1]
    assert embedding.shape == (1, 24)
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-3)


def test_batches_and_workers_do_not_matter(records, tmp_path, archive):
    precompute(records, tmp_path / "one", archive, windows="whole+tiles9", batch_size=1)
    precompute(
        records, tmp_path / "many", archive, windows="whole+tiles9", batch_size=80, num_workers=2
    )
    one, many = (np.load(tmp_path / name / "embeddings.npy") for name in ("one", "many"))
    np.testing.assert_allclose(one.astype(float), many.astype(float), rtol=2e-3, atol=1e-4)


def test_resume_after_an_interruption_equals_an_uninterrupted_run(
    records, tmp_path, archive, monkeypatch
):
    precompute(records, tmp_path / "whole", archive, batch_size=1)
    write = EmbeddingStore.write

    def interrupted(store, rows, *arrays):
        if 3 in rows:
            raise KeyboardInterrupt
        write(store, rows, *arrays)

    monkeypatch.setattr(EmbeddingStore, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        precompute(records, tmp_path / "resumed", archive, batch_size=1)
    monkeypatch.undo()
    with pytest.raises(StoreError, match="3 of 6 rows are done"):
        EmbeddingStore.open(tmp_path / "resumed")
    assert precompute(records, tmp_path / "resumed", archive, batch_size=1).done == 3
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")


def test_nothing_is_read_again_when_all_is_done(records, tmp_path, archive, monkeypatch):
    precompute(records, tmp_path / "store", archive)
    monkeypatch.setattr(teacher, "read_picture", lambda *_: pytest.fail("read again"))
    report = precompute(records, tmp_path / "store", archive)
    assert report.done == 0 and report.failures == ()


def test_two_ranks_equal_one(records, tmp_path, archive):
    precompute(records, tmp_path / "one", archive, batch_size=1)
    work = partial(precompute, records, tmp_path / "two", archive, batch_size=1)
    assert [report.done for report in run_ranks(2, tmp_path, work)] == [3, 3]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_pictures_are_named_and_the_rest_goes_on(records, tmp_path, archive, num_workers):
    def files(i):
        return records[i]["file_name"]

    good = {i: open(files(i), "rb").read() for i in (1, 2)}
    open(files(1), "wb").write(good[1][:200])
    open(files(2), "wb").write(b"no picture")
    records[3] = records[3] | dict(file_name=str(tmp_path / "gone.png"))
    records[4] = records[4] | dict(width=42)
    report = precompute(records, tmp_path / "store", archive, num_workers=num_workers)
    assert report.done == 2
    assert [failure.image_id for failure in report.failures] == [101, 102, 103, 104]
    assert [failure.file_name for failure in report.failures] == [files(i) for i in (1, 2, 3, 4)]
    reasons = [failure.reason for failure in report.failures]
    assert "UnidentifiedImageError" in reasons[1] and "FileNotFoundError" in reasons[2]
    assert "got (41, 33), expect (42, 33)" in reasons[3]
    with pytest.raises(StoreError, match="2 of 6 rows.*image id 101"):
        EmbeddingStore.open(tmp_path / "store")

    for i, data in good.items():
        open(files(i), "wb").write(data)
    report = precompute(records, tmp_path / "store", archive)
    assert report.done == 2
    assert [failure.image_id for failure in report.failures] == [103, 104]


def test_embeddings_that_are_not_finite_are_failures(records, tmp_path, archive, monkeypatch):
    def overflowing(model, images):
        embeddings = encode_images(model, images).clone()
        embeddings[2] = torch.nan  # of the second picture: two a picture
        return embeddings

    monkeypatch.setattr(teacher, "encode_images", overflowing)
    report = precompute(records, tmp_path / "store", archive)
    assert report.done == 5
    assert [(f.image_id, "not finite" in f.reason) for f in report.failures] == [(101, True)]


def test_a_store_of_another_teacher_is_refused(records, tmp_path, archive):
    precompute(records, tmp_path / "store", archive)
    sizes = dict(embed_dim=48, image_resolution=64, vision_layers=(1, 1, 1, 1), vision_width=16)
    write_random_clip_archive(tmp_path / "other.pt", **sizes, **TEXT, seed=1)
    with pytest.raises(StoreError, match="teacher .*teacher_sha256"):
        precompute(records, tmp_path / "store", tmp_path / "other.pt")
    with pytest.raises(StoreError, match="image_ids"):
        precompute(records[::-1], tmp_path / "store", archive)


def test_a_dataset_with_repeated_or_no_images_is_refused(records, tmp_path, archive):
    with pytest.raises(StoreError, match="twice"):
        precompute(records + records[:1], tmp_path / "store", archive)
    with pytest.raises(StoreError, match="no images"):
        precompute([], tmp_path / "store", archive)
    assert not (tmp_path / "store").exists()


def test_progress_bar_counts_images(records, tmp_path, archive, capsys):
    precompute(records, tmp_path / "store", archive)
    shown = capsys.readouterr().err
    assert "6/6" in shown and "image/s" in shown


def test_encode_images_is_frozen_and_of_unit_norm(model):
    embeddings = encode_images(model, torch.randn(3, 3, 64, 64))
    assert embeddings.shape == (3, 48) and not embeddings.requires_grad
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))
