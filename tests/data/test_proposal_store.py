import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from gridclip.data.proposal_store import ProposalManifest, ProposalStore
from gridclip.data.store import StoreError

MANIFEST = ProposalManifest(
    dataset="toy_train",
    image_ids=(7, "a/b", 3),
    weights_sha256="ab" * 32,
    max_proposals=4,
    inference="shortest side 800",
)
COUNTS = (4, 0, 2)


@pytest.fixture
def proposals():
    """(boxes, scores) of every image; the second has none."""
    rng = np.random.default_rng(0)
    corners = [rng.uniform(0, 50, (count, 2)) for count in COUNTS]
    boxes = [np.concatenate([c, c + 1 + rng.uniform(0, 9, c.shape)], axis=1) for c in corners]
    scores = [np.sort(rng.normal(size=count))[::-1] for count in COUNTS]
    return [
        (b.astype(np.float32), s.astype(np.float32)) for b, s in zip(boxes, scores, strict=True)
    ]


@pytest.fixture
def complete(tmp_path, proposals):
    store = ProposalStore.create(tmp_path / "store", MANIFEST)
    for row, (boxes, scores) in enumerate(proposals):
        store.write([row], [boxes], [scores])
    return store.path


def test_lookup_returns_what_was_written(complete, proposals):
    store = ProposalStore.open(complete)
    assert store.manifest == MANIFEST
    assert store.counts.dtype == np.int64 and store.counts.tolist() == list(COUNTS)
    for image_id, (boxes, scores) in zip(MANIFEST.image_ids, proposals, strict=True):
        found = store.lookup(image_id)
        assert found[0].dtype == found[1].dtype == np.float32
        assert found[0].shape == (len(scores), 4)
        assert np.array_equal(found[0], boxes) and np.array_equal(found[1], scores)
    store.lookup(7)[0][:] = 0  # a copy: the file stays as it is
    assert np.array_equal(store.lookup(7)[0], proposals[0][0])


def test_files_are_plain_npy_and_json(complete):
    arrays = {file.stem: np.load(file, allow_pickle=False).shape for file in complete.glob("*.npy")}
    assert arrays == {"boxes": (3, 4, 4), "scores": (3, 4), "counts": (3,), "done": (3,)}
    manifest = json.loads((complete / "manifest.json").read_text())
    assert manifest["weights_sha256"] == "ab" * 32 and manifest["version"] == 1
    # Those of release 0.1.0 and one that may be absent: its stores can be read.
    keys = {"dataset", "image_ids", "image_ids_sha256", "pictures_sha256", "version"}
    assert set(manifest) == keys | {"weights_sha256", "max_proposals", "inference"}


def test_digest_is_of_ids_counts_and_boxes(complete, proposals):
    expected = hashlib.sha256(hashlib.sha256(b'[7, "a/b", 3]').hexdigest().encode())
    expected.update(b"".join(count.to_bytes(8, "little") for count in COUNTS))
    expected.update(b"".join(boxes.tobytes() for boxes, _ in proposals))
    assert ProposalStore.open(complete).digest() == expected.hexdigest()


@pytest.mark.parametrize("change", ["box", "image id", "boundary"])
def test_digest_tells_other_proposals(complete, proposals, tmp_path, change):
    manifest = MANIFEST
    if change == "box":
        proposals[2][0][1, 2] += 1
    elif change == "image id":
        manifest = replace(MANIFEST, image_ids=(7, "a/b", 4))
    else:  # the same boxes in the same order, dealt out otherwise
        (first, scores), last = proposals[0], proposals[2]
        proposals[0], proposals[1] = (first[:3], scores[:3]), (first[3:], scores[3:])
        proposals[2] = last
    store = ProposalStore.create(tmp_path / "other", manifest)
    for row, (boxes, scores) in enumerate(proposals):
        store.write([row], [boxes], [scores])
    assert store.digest() != ProposalStore.open(complete).digest()


def test_digest_is_the_same_after_a_resume(complete, proposals, tmp_path):
    path = tmp_path / "resumed"
    ProposalStore.create(path, MANIFEST).write([2], *([array] for array in proposals[2]))
    store = ProposalStore.create(path, MANIFEST)
    assert store.pending().tolist() == [0, 1] and store.pending(1, 2).tolist() == [1]
    for row in store.pending():
        store.write([row], *([array] for array in proposals[row]))
    assert ProposalStore.open(path).digest() == ProposalStore.open(complete).digest()


def test_incomplete_and_missing_stores_name_image_and_command(tmp_path, proposals):
    path = tmp_path / "store"
    command = f"precompute.py proposals --config-file CONFIG.py.*--output {path}"
    with pytest.raises(StoreError, match=f"(?s)no proposal store.*{command}"):
        ProposalStore.open(path)
    store = ProposalStore.create(path, MANIFEST)
    store.write([0], *([array] for array in proposals[0]))
    with pytest.raises(StoreError, match=f"(?s)1 of 3 rows.*image id 'a/b'.*{command}"):
        ProposalStore.open(path)
    with pytest.raises(StoreError, match="no scores of image id 'a/b' yet"):
        store.lookup("a/b")
    with pytest.raises(StoreError, match="holds no image id '7'"):
        store.lookup("7")


@pytest.mark.parametrize(
    "change",
    [
        dict(weights_sha256="cd" * 32),
        dict(max_proposals=3),
        dict(inference="shortest side 1024"),
        dict(dataset="other"),
        dict(image_ids=(7, 3)),
    ],
)
def test_create_refuses_a_store_of_something_else(complete, change):
    with pytest.raises(StoreError, match=f"differ in {next(iter(change))} .*Delete that folder"):
        ProposalStore.create(complete, replace(MANIFEST, **change))


def test_check_names_images_that_are_missing(complete):
    store = ProposalStore.open(complete)
    store.check([3, 7])
    with pytest.raises(StoreError, match="lacks 2 images, the first is id 5"):
        store.check([3, 5, 6])


BOX = [0.0, 0.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("boxes", "scores", "message"),
    [
        ([BOX] * 5, [1.0] * 5, "k <= 4"),
        ([BOX], [1.0, 0.0], r"got \(1, 4\) and \(2,\)"),
        ([BOX[:3]], [1.0], r"\(1, 3\)"),
        ([BOX], [[1.0]], r"\(1, 1\)"),
        ([[0.0, 0.0, np.inf, 2.0]], [1.0], "not finite"),
        ([BOX], [np.nan], "not finite"),
        ([[2.0, 0.0, 2.0, 2.0]], [1.0], "empty"),
        ([BOX, BOX], [0.0, 1.0], "order of their scores"),
    ],
)
def test_write_refuses_what_is_no_proposal(tmp_path, boxes, scores, message):
    store = ProposalStore.create(tmp_path / "store", MANIFEST)
    with pytest.raises(ValueError, match=message):
        store.write([0], [boxes], [scores])
    assert len(store.pending()) == 3


def test_store_opened_for_reading_is_not_written(complete):
    with pytest.raises(ValueError, match="read-only"):
        ProposalStore.open(complete).write([0], [[BOX]], [[1.0]])


@pytest.mark.parametrize(
    ("file", "value", "message"),
    [("counts", 5, "counts 5 regions of image id 7"), ("boxes", np.nan, "not finite")],
)
def test_damaged_proposals_are_not_handed_out(complete, file, value, message):
    array = np.load(complete / f"{file}.npy")
    array[0] = value
    np.save(complete / f"{file}.npy", array)
    store = ProposalStore.open(complete)
    with pytest.raises(StoreError, match=f"{message}.*delete the folder"):
        store.lookup(7)
    assert len(store.lookup(3)[1]) == 2


@pytest.mark.parametrize("most", [0, -1, 2.0, None])
def test_bad_manifests(most):
    with pytest.raises(StoreError, match=f"{most} is not a possible number of regions"):
        replace(MANIFEST, max_proposals=most)
