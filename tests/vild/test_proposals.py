import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import pairwise_iou
from PIL import Image

from gridclip.data.proposal_store import ProposalStore
from gridclip.data.store import StoreError
from gridclip.vild import precompute_proposals
from ranks import run_ranks

SIZES = [(90, 60), (64, 64), (40, 120)]  # width, height
RESIZE = [T.ResizeShortestEdge(96, 160)]


@pytest.fixture
def records(tmp_path):
    """Three pictures as dataset dicts."""
    rng = np.random.default_rng(0)
    records = []
    for image_id, (width, height) in enumerate(SIZES, 1):
        path = tmp_path / f"{image_id}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        records.append(dict(image_id=image_id, file_name=str(path), width=width, height=height))
    return records


@pytest.fixture
def model(tiny_vild):
    model = tiny_vild()
    # Proposals of many sizes that reach over the border.
    torch.nn.init.normal_(model.proposal_generator.rpn_head.anchor_deltas.weight, std=0.05)
    return model.eval()


@pytest.fixture
def store_proposals(model, records, tmp_path):
    def store(name="proposals", records=records, **changes):
        options = dict(weights_sha256="ab", augmentations=RESIZE, max_proposals=20, num_workers=0)
        path = tmp_path / name
        options = options | changes
        return precompute_proposals(model, records, "toy", path, **options), path

    return store


def test_proposals_are_the_generators_in_pixels_of_the_picture(model, records, store_proposals):
    report, path = store_proposals()
    assert report.done == 3 and report.failures == ()
    store = ProposalStore.open(path)
    for record, (width, height) in zip(records, SIZES, strict=True):
        boxes, scores = store.lookup(record["image_id"])

        pixels = T.AugInput(np.asarray(Image.open(record["file_name"])))
        T.AugmentationList(RESIZE)(pixels)
        inputs = [{"image": torch.tensor(pixels.image.copy()).permute(2, 0, 1)}]
        with torch.no_grad():
            images = model.preprocess_image(inputs)
            features = model.backbone(images.tensor)
            expected, _ = model.proposal_generator(images, features)
        scaled = expected[0].proposal_boxes
        resized_height, resized_width = pixels.image.shape[:2]
        scaled.scale(width / resized_width, height / resized_height)
        torch.testing.assert_close(torch.tensor(boxes), scaled.tensor[:20])
        torch.testing.assert_close(torch.tensor(scores), expected[0].objectness_logits[:20])
        assert (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
        iou = pairwise_iou(scaled[:20], scaled[:20]).fill_diagonal_(0)
        assert iou.max() <= 0.7 + 1e-4


def test_boxes_without_area_are_left_out(model, store_proposals, monkeypatch):
    forward = model.proposal_generator.forward

    def with_an_empty_box(*args):
        proposals, losses = forward(*args)
        proposals[0].proposal_boxes.tensor[0, 2] = proposals[0].proposal_boxes.tensor[0, 0]
        return proposals, losses

    _, plain = store_proposals("plain")
    monkeypatch.setattr(model.proposal_generator, "forward", with_an_empty_box)
    _, path = store_proposals()
    boxes, _ = ProposalStore.open(path).lookup(1)
    expected, _ = ProposalStore.open(plain).lookup(1)
    assert np.array_equal(boxes[:19], expected[1:]) and len(boxes) == 20


def test_image_without_proposals(model, store_proposals, monkeypatch):
    forward = model.proposal_generator.forward
    monkeypatch.setattr(
        model.proposal_generator, "forward", lambda *args: ([forward(*args)[0][0][:0]], {})
    )
    _, path = store_proposals()
    store = ProposalStore.open(path)
    assert store.counts.tolist() == [0, 0, 0] and store.lookup(1)[0].shape == (0, 4)


def test_interrupted_run_goes_on_and_ranks_share(store_proposals, monkeypatch):
    _, whole = store_proposals("whole")
    write, written = ProposalStore.write, []

    def dies_after_the_first(store, rows, *args):
        if written:
            raise KeyboardInterrupt
        written.extend(rows)
        write(store, rows, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ProposalStore, "write", dies_after_the_first)
        with pytest.raises(KeyboardInterrupt):
            store_proposals("cut")
    report, cut = store_proposals("cut")
    assert report.done == 2
    assert store_proposals("cut")[0].done == 0

    outcomes = run_ranks(2, cut.parent, store_proposals, "shared")
    assert [report.done for report, _ in outcomes] == [2, 1]
    digests = {ProposalStore.open(p).digest() for p in (whole, cut, cut.with_name("shared"))}
    assert len(digests) == 1


def test_bad_pictures_are_reported_and_tried_again(records, store_proposals):
    path = records[1]["file_name"]
    whole = open(path, "rb").read()
    open(path, "wb").write(whole[:100])
    records[2]["width"] += 1
    report, store_path = store_proposals()
    assert [failure.image_id for failure in report.failures] == [2, 3]
    assert "SizeMismatchError" in report.failures[1].reason and report.done == 1
    with pytest.raises(StoreError, match="image id 2"):
        ProposalStore.open(store_path)
    open(path, "wb").write(whole)
    records[2]["width"] -= 1
    assert store_proposals()[0].done == 2
    ProposalStore.open(store_path)


def test_store_of_other_weights_or_sizes_is_refused(store_proposals):
    store_proposals()
    with pytest.raises(StoreError, match="weights_sha256 .'cd' and 'ab'."):
        store_proposals(weights_sha256="cd")
    with pytest.raises(StoreError, match="inference .*ResizeShortestEdge"):
        store_proposals(augmentations=[T.ResizeShortestEdge(64, 160)])


def test_more_than_the_generator_gives_is_refused(store_proposals, tmp_path):
    with pytest.raises(ValueError, match="51 proposals .* gives 50: raise"):
        store_proposals(max_proposals=51)
    assert not (tmp_path / "proposals").exists()


def test_workers_give_the_same(store_proposals):
    digests = [
        ProposalStore.open(store_proposals(name, num_workers=n)[1]).digest()
        for name, n in (("none", 0), ("two", 2))
    ]
    assert digests[0] == digests[1]


def test_a_model_in_training_mode_gives_the_same(model, store_proposals):
    _, expected = store_proposals("evaluation")
    model.train()
    _, path = store_proposals("training")
    assert not model.training
    assert ProposalStore.open(path).digest() == ProposalStore.open(expected).digest()
