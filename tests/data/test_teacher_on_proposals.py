from functools import partial
from pathlib import Path

import clip
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from drawings import random_image
from gridclip.data import teacher
from gridclip.data.embedding_store import EmbeddingStore
from gridclip.data.proposal_store import ProposalManifest, ProposalStore
from gridclip.data.regions import Proposals, region_inputs, region_windows
from gridclip.data.store import StoreError
from gridclip.data.teacher import encode_images, encode_regions, precompute_embeddings
from ranks import run_ranks

pytestmark = pytest.mark.usefixtures("weights_read_once")

# By hand, in a picture of 100 x 80 pixels: (box, crop, crop at scale 1.5)
CROPS = [
    ((40, 20, 60, 40), (40, 20, 60, 40), (35, 15, 65, 45)),  # inside
    ((0, 0, 20, 10), (0, 0, 20, 10), (0, 0, 25, 13)),  # upper left corner; 12.5 rounded outwards
    ((80, 60, 100, 80), (80, 60, 100, 80), (75, 55, 100, 80)),  # lower right corner
    ((0, 0, 100, 80), (0, 0, 100, 80), (0, 0, 100, 80)),  # everything
    ((10.4, 10.6, 12.2, 30.5), (10, 10, 13, 31), (9, 5, 13, 36)),  # between pixels
    ((99.2, 5.1, 99.6, 5.3), (99, 5, 100, 6), (99, 5, 100, 6)),  # less than a pixel
    ((100, 80, 100, 80), (99, 79, 100, 80), (99, 79, 100, 80)),  # nothing, at the very corner
]


def to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def pil_inputs(image, window, resolution):
    """CLIP's own preprocessing of a crop that Pillow has cut and squashed: (3, n, n)."""
    crop = Image.fromarray(image).crop(window).resize((resolution, resolution), Image.BICUBIC)
    return clip.clip._transform(resolution)(crop)


def levels(inputs):
    """Normalised inputs back to 0..255."""
    normalize = clip.clip._transform(1).transforms[-1]
    std, mean = (torch.tensor(v)[:, None, None] for v in (normalize.std, normalize.mean))
    return (inputs * std + mean) * 255


def test_crops_at_the_border_by_hand():
    boxes = torch.tensor([box for box, _, _ in CROPS])
    windows = region_windows(boxes, height=80, width=100)
    assert windows.dtype == torch.int64
    assert windows.tolist() == [[list(once), list(wide)] for _, once, wide in CROPS]


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.lists(st.tuples(*[st.floats(-50, 350, width=32)] * 4), max_size=5),
)
def test_crops_are_inside_never_empty_and_nested(height, width, corners):
    boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 2, 2).sort(dim=1).values
    x0, y0, x1, y1 = region_windows(boxes.flatten(1), height, width).unbind(-1)
    assert x0.shape == (len(corners), 2)
    assert (x0 >= 0).all() and (y0 >= 0).all() and (x1 <= width).all() and (y1 <= height).all()
    assert (x0 < x1).all() and (y0 < y1).all()
    for low, high in ((x0, x1), (y0, y1)):
        assert (low[:, 1] <= low[:, 0]).all() and (high[:, 1] >= high[:, 0]).all()


def test_crops_of_the_encoders_size_are_exact():
    """No resampling takes place: the input is the crop, pixel for pixel."""
    image = random_image(80, 100, seed=0)
    inputs = region_inputs(to_tensor(image), torch.tensor([[70.0, 50, 100, 80]]), 30)
    assert inputs.shape == (1, 2, 3, 30, 30) and inputs.dtype == torch.float32
    torch.testing.assert_close(inputs[0, 0], pil_inputs(image, (70, 50, 100, 80), 30))


@pytest.mark.parametrize("resolution", [64, 224])
def test_inputs_equal_clips_own_preprocessing_of_pils_crops(resolution):
    image = random_image(80, 100, seed=1)
    inputs = region_inputs(to_tensor(image), torch.tensor([c[0] for c in CROPS]), resolution)
    for found, (_, *windows) in zip(inputs, CROPS, strict=True):
        for one, window in zip(found, windows, strict=True):
            expected = pil_inputs(image, window, resolution)
            assert (levels(one) - levels(expected)).abs().max() < 2.01


def test_tolerance_on_photographs(mini_datasets):
    """The figures that region_inputs states."""
    files = sorted((mini_datasets / "coco" / "train2017").glob("*.jpg"))[:4]
    rng = np.random.default_rng(0)
    for file in files:
        image = np.asarray(Image.open(file).convert("RGB"))
        size = np.array(image.shape[1::-1])
        centre, side = rng.uniform(0, size, (20, 2)), np.exp(rng.uniform(2.5, 6, (20, 2)))
        boxes = np.concatenate([centre - side / 2, centre + side / 2], 1).clip(0, [*size, *size])
        boxes = torch.from_numpy(boxes).float()
        inputs = region_inputs(to_tensor(image), boxes, 224).flatten(0, 1)
        windows = region_windows(boxes, *image.shape[:2]).flatten(0, 1).tolist()
        for found, (x0, y0, x1, y1) in zip(inputs, windows, strict=True):
            difference = (levels(found) - levels(pil_inputs(image, (x0, y0, x1, y1), 224))).abs()
            assert difference.max() < (20.01 if y1 - y0 > 224 else 2.01)
            assert difference.mean() < 0.5


def test_averages_both_crops_as_clip_would(model):
    image, box = random_image(80, 100, seed=2), [80.0, 60, 100, 80]
    expected = []
    for window in ((80, 60, 100, 80), (75, 55, 100, 80)):
        with torch.no_grad():
            embedding = model.encode_image(pil_inputs(image, window, 64)[None])[0]
        expected.append(embedding / embedding.norm())
    assert (expected[0] - expected[1]).abs().max() > 0.01
    mean = (expected[0] + expected[1]) / 2
    found = encode_regions(model, region_inputs(to_tensor(image), torch.tensor([box]), 64))[0]
    torch.testing.assert_close(found, mean / mean.norm(), rtol=0, atol=3e-3)


def test_no_boxes():
    inputs = region_inputs(to_tensor(random_image(8, 8, 0)), torch.empty(0, 4), 64)
    assert inputs.shape == (0, 2, 3, 64, 64)


COUNTS = (3, 0, 1, 5)


@pytest.fixture
def records(tmp_path):
    """Four pictures of different sizes."""
    records = []
    (tmp_path / "images").mkdir()
    for i, (height, width) in enumerate([(64, 64), (50, 90), (90, 50), (33, 41)]):
        file_name = tmp_path / "images" / f"{i}.png"
        Image.fromarray(random_image(height, width, seed=i)).save(file_name)
        records.append(dict(file_name=str(file_name), image_id=10 + i, height=height, width=width))
    return records


def random_boxes(record, count, seed):
    corners = np.random.default_rng(seed).uniform(0, 1, (count, 2, 2))
    boxes = np.sort(corners, axis=1) * [record["width"], record["height"]]
    return boxes.reshape(count, 4).astype(np.float32)


@pytest.fixture
def proposals(tmp_path, records):
    manifest = ProposalManifest(
        dataset="toy_train",
        image_ids=tuple(record["image_id"] for record in records),
        weights_sha256="cd" * 32,
        max_proposals=5,
    )
    store = ProposalStore.create(tmp_path / "proposals", manifest)
    for row, count in enumerate(COUNTS):
        boxes = random_boxes(records[row], count, row)
        store.write([row], [boxes], [np.linspace(1, 0.5, count)])
    return ProposalStore.open(store.path)


def precompute(proposals, records, path, archive, **kwargs):
    kwargs, regions = dict(num_workers=0) | kwargs, Proposals(proposals)
    return precompute_embeddings(records, "toy_train", path, archive, regions, **kwargs)


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("batch_size, num_workers", [(2, 0), (7, 0), (128, 2)])
def test_every_proposal_gets_its_embedding(
    proposals, records, tmp_path, archive, model, batch_size, num_workers
):
    report = precompute(
        proposals,
        records[::-1],
        tmp_path / "store",
        archive,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    assert report.done == 4 and report.failures == () and report.seconds > 0
    store = EmbeddingStore.open(tmp_path / "store", regions="proposals")
    for row, record in enumerate(records):
        boxes, found = store.lookup(record["image_id"])
        assert np.array_equal(boxes, proposals.lookup(record["image_id"])[0])
        assert found.shape == (COUNTS[row], 48)
        image = np.asarray(Image.open(record["file_name"]))
        for box, embedding in zip(boxes, found, strict=True):
            windows = region_windows(torch.tensor(box)[None], *image.shape[:2])[0].tolist()
            inputs = torch.stack([pil_inputs(image, tuple(window), 64) for window in windows])
            expected = F.normalize(encode_images(model, inputs).sum(dim=0), dim=0)
            # A single crop of the two reaches no more than 0.998.
            assert expected @ torch.from_numpy(embedding) > 0.9995


def test_batches_mix_images(proposals, records, tmp_path, archive, monkeypatch):
    sizes = []

    def counting(model, inputs):
        sizes.append(len(inputs))
        return encode_regions(model, inputs)

    monkeypatch.setattr(teacher, "encode_regions", counting)
    precompute(proposals, records, tmp_path / "store", archive, batch_size=8)
    assert sizes == [4, 4, 1]  # of 3 + 0 + 1 + 5


def test_manifest_says_what_was_done(proposals, records, tmp_path, archive):
    precompute(proposals, records, tmp_path / "store", archive)
    store = EmbeddingStore.open(tmp_path / "store")
    manifest = store.manifest
    assert manifest.dataset == "toy_train" and manifest.image_ids == (10, 11, 12, 13)
    assert manifest.teacher == "tiny" and len(manifest.teacher_sha256) == 64
    assert "64 x 64" in manifest.preprocessing and "1.5" in manifest.preprocessing
    assert store.counts.tolist() == list(COUNTS) and manifest.max_regions == 5
    assert manifest.regions_sha256 == proposals.digest()


def test_resume_after_an_interruption_equals_an_uninterrupted_run(
    proposals, records, tmp_path, archive, monkeypatch
):
    precompute(proposals, records, tmp_path / "whole", archive, batch_size=2)
    calls = []

    def interrupted(model, inputs):
        calls.append(1)
        if len(calls) == 7:  # in the middle of the last picture
            raise KeyboardInterrupt
        return encode_regions(model, inputs)

    monkeypatch.setattr(teacher, "encode_regions", interrupted)
    with pytest.raises(KeyboardInterrupt):
        precompute(proposals, records, tmp_path / "resumed", archive, batch_size=2)
    monkeypatch.undo()
    with pytest.raises(StoreError, match="3 of 4 rows are done.*image id 13"):
        EmbeddingStore.open(tmp_path / "resumed")
    report = precompute(proposals, records, tmp_path / "resumed", archive, batch_size=2)
    assert report.done == 1
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")


def test_nothing_is_read_again_when_all_is_done(proposals, records, tmp_path, archive, monkeypatch):
    precompute(proposals, records, tmp_path / "store", archive)
    monkeypatch.setattr(teacher, "read_picture", lambda *_: pytest.fail("read again"))
    assert precompute(proposals, records, tmp_path / "store", archive).done == 0


def test_two_ranks_equal_one(proposals, records, tmp_path, archive):
    precompute(proposals, records, tmp_path / "one", archive, batch_size=2)
    work = partial(precompute, proposals, records, tmp_path / "two", archive, batch_size=2)
    assert [report.done for report in run_ranks(2, tmp_path, work)] == [2, 2]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_pictures_are_named_and_the_rest_goes_on(
    proposals, records, tmp_path, archive, num_workers
):
    bad = [dict(record) for record in records]
    bad[0]["file_name"] = str(tmp_path / "gone" / Path(bad[0]["file_name"]).name)
    bad[2]["width"] = 51
    report = precompute(proposals, bad, tmp_path / "store", archive, num_workers=num_workers)
    assert report.done == 2
    assert [failure.image_id for failure in report.failures] == [10, 12]
    assert report.failures[0].file_name == bad[0]["file_name"]
    assert "FileNotFoundError" in report.failures[0].reason
    assert "got (50, 90), expect (51, 90)" in report.failures[1].reason
    with pytest.raises(StoreError, match="2 of 4 rows.*image id 10"):
        EmbeddingStore.open(tmp_path / "store")
    assert precompute(proposals, records, tmp_path / "store", archive).done == 2


def test_embeddings_that_are_not_finite_are_failures(
    proposals, records, tmp_path, archive, monkeypatch
):
    def overflowing(model, inputs):
        embeddings = encode_regions(model, inputs).clone()
        embeddings[1] = torch.nan  # of the first picture
        return embeddings

    monkeypatch.setattr(teacher, "encode_regions", overflowing)
    report = precompute(proposals, records, tmp_path / "store", archive)
    assert report.done == 3
    assert [(f.image_id, "not finite" in f.reason) for f in report.failures] == [(10, True)]


def test_exif_orientation_is_applied(proposals, records, tmp_path, archive):
    precompute(proposals, records, tmp_path / "upright", archive)
    turned, exif = [], Image.Exif()
    exif[274] = 6  # the camera was held upright: rotate by 90 degrees clockwise to show it
    for record in records:
        file_name = str(tmp_path / "turned_pictures" / Path(record["file_name"]).name)
        Path(file_name).parent.mkdir(exist_ok=True)
        image = np.rot90(np.asarray(Image.open(record["file_name"])))
        Image.fromarray(np.ascontiguousarray(image)).save(file_name, exif=exif)
        turned.append(record | dict(file_name=file_name))
    assert precompute(proposals, turned, tmp_path / "turned", archive).failures == ()
    assert contents(tmp_path / "turned") == contents(tmp_path / "upright")


def test_stores_of_something_else_are_refused(proposals, records, tmp_path, archive, make_clip):
    precompute(proposals, records, tmp_path / "store", archive)
    other = make_clip(embed_dim=48, vision_width=16, seed=1)
    with pytest.raises(StoreError, match="differ in .*teacher_sha256"):
        precompute(proposals, records, tmp_path / "store", other)
    with pytest.raises(StoreError, match="1 images that are not in the dataset.* 12.*toy_train"):
        precompute(proposals, records[:2] + records[3:], tmp_path / "new", archive)
    assert not (tmp_path / "new").exists()


def test_progress_bar_counts_images(proposals, records, tmp_path, archive, capsys):
    precompute(proposals, records, tmp_path / "store", archive)
    shown = capsys.readouterr().err
    assert "4/4" in shown and "image/s" in shown
