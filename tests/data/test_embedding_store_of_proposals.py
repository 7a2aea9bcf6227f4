import json
import multiprocessing
import os
import pickle
import signal
from dataclasses import replace

import numpy as np
import pytest

from gridclip.data.embedding_store import EmbeddingManifest, EmbeddingStore
from gridclip.data.proposal_store import ProposalManifest, ProposalStore
from gridclip.data.store import StoreError

IDS, COUNTS, DIM = (7, "b", 3), (2, 0, 3), 4


def make_proposals(path, shift=0.0):
    """A complete store of two, no and three boxes."""
    manifest = ProposalManifest(
        dataset="toy_train", image_ids=IDS, weights_sha256="cd" * 32, max_proposals=5
    )
    store, rng = ProposalStore.create(path, manifest), np.random.default_rng(0)
    for row, count in enumerate(COUNTS):
        boxes = rng.uniform(0, 50, (count, 4)).astype(np.float32) + np.float32([0, 0, 60, 60])
        store.write([row], [boxes + shift], [np.linspace(1, 0.5, count)])
    return ProposalStore.open(path)


@pytest.fixture
def proposals(tmp_path):
    return make_proposals(tmp_path / "proposals")


@pytest.fixture
def manifest(proposals):
    return EmbeddingManifest(
        dataset="toy_train",
        image_ids=IDS,
        teacher="RN50",
        teacher_sha256="ab" * 32,
        preprocessing="crops",
        dim=DIM,
        regions="proposals",
        regions_sha256=proposals.digest(),
        max_regions=5,
        mirror=False,
    )


@pytest.fixture
def embeddings():
    rng = np.random.default_rng(1)
    return [rng.normal(size=(count, 1, DIM)).astype(np.float16) for count in COUNTS]


def fill(store, proposals, embeddings, rows=range(3)):
    for row in rows:
        store.write([row], [proposals.lookup(IDS[row])[0]], [embeddings[row]])


@pytest.fixture
def complete(tmp_path, manifest, proposals, embeddings):
    fill(EmbeddingStore.create(tmp_path / "store", manifest), proposals, embeddings)
    return tmp_path / "store"


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_lookup_returns_what_was_written(complete, proposals, embeddings):
    store = EmbeddingStore.open(complete, regions="proposals")
    for row, image_id in enumerate(IDS):
        boxes, found = store.lookup(image_id)
        assert boxes.dtype == found.dtype == np.float32
        assert boxes.shape == (COUNTS[row], 4) and found.shape == (COUNTS[row], DIM)
        assert np.array_equal(boxes, proposals.lookup(image_id)[0])
        assert np.array_equal(found, embeddings[row][:, 0])
    boxes, found = store.lookup(3)
    boxes[:], found[:] = 0, 0  # copies: the files stay as they are
    assert store.lookup(3)[0].any() and store.lookup(3)[1].any()


def test_files_are_plain_npy_and_json(complete, manifest, embeddings):
    assert sorted(contents(complete)) == [
        "boxes.npy",
        "counts.npy",
        "done.npy",
        "embeddings.npy",
        "manifest.json",
    ]
    found = np.load(complete / "embeddings.npy", allow_pickle=False)
    assert found.dtype == np.float16 and found.shape == (3, 5, 1, DIM)
    for row, count in enumerate(COUNTS):
        assert np.array_equal(found[row, :count], embeddings[row]) and not found[row, count:].any()
    assert np.load(complete / "counts.npy", allow_pickle=False).tolist() == list(COUNTS)
    assert EmbeddingStore.open(complete).manifest == manifest


def test_a_dataset_without_any_region(tmp_path, manifest):
    store = EmbeddingStore.create(tmp_path / "none", manifest)
    for row in range(3):
        store.write([row], [np.empty((0, 4))], [np.empty((0, 1, DIM))])
    boxes, embeddings = EmbeddingStore.open(tmp_path / "none").lookup("b")
    assert boxes.shape == (0, 4) and embeddings.shape == (0, DIM)


def test_other_proposals_are_refused_with_both_digests_and_the_fix(complete, manifest, tmp_path):
    others = make_proposals(tmp_path / "others", shift=0.5)
    with pytest.raises(StoreError) as info:
        EmbeddingStore.create(complete, replace(manifest, regions_sha256=others.digest()))
    for part in (complete, others.digest(), manifest.regions_sha256):
        assert str(part) in str(info.value)
    assert "Delete that folder" in str(info.value)


def test_windows_are_not_taken_for_proposals(complete, tmp_path):
    with pytest.raises(
        StoreError, match="regions are 'proposals', not 'tiles9'; delete the folder"
    ):
        EmbeddingStore.open(complete, regions="tiles9")
    with pytest.raises(StoreError) as info:
        EmbeddingStore.open(tmp_path / "nowhere", regions="proposals")
    assert "scripts/precompute.py regions --proposals PROPOSALS" in str(info.value)


def test_create_refuses_a_store_of_other_proposals(complete, manifest):
    with pytest.raises(StoreError, match=r"regions_sha256 \(.*max_regions \(4 and 5\).*Delete"):
        EmbeddingStore.create(complete, replace(manifest, regions_sha256="0", max_regions=4))


def test_kill_before_the_done_byte_loses_nothing(
    tmp_path, complete, manifest, proposals, embeddings
):
    path = tmp_path / "killed"

    class KillOnWrite:
        def __setitem__(self, rows, value):
            os.kill(os.getpid(), signal.SIGKILL)

    def write_and_die():
        store = EmbeddingStore.create(path, manifest)
        fill(store, proposals, embeddings, rows=[1])
        store._done = KillOnWrite()
        store.write([2], [proposals.lookup(3)[0] + 1], [embeddings[2] + 1])

    process = multiprocessing.get_context("fork").Process(target=write_and_die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(StoreError, match="1 of 3 rows are done, .*image id 7"):
        EmbeddingStore.open(path)
    store = EmbeddingStore.create(path, manifest)
    assert store.pending().tolist() == [0, 2]
    with pytest.raises(StoreError, match="no embeddings of image id 3 yet"):
        store.lookup(3)
    fill(store, proposals, embeddings, rows=[0, 2])
    assert contents(path) == contents(complete)


@pytest.mark.parametrize(
    "boxes, embeddings, message",
    [
        (np.ones((1, 4)), np.ones((2, 1, DIM)), r"got \(1, 4\) and \(2, 1, 4\)"),
        (np.full((2, 4), np.nan), np.ones((2, 1, DIM)), "boxes or embeddings are not finite"),
        (np.ones((2, 4)), np.ones((3, 1, DIM)), r"embeddings \('k', 1, 4\) .* and \(3, 1, 4\)"),
        (np.ones((2, 4)), np.ones((2, 1, 3)), r"embeddings \('k', 1, 4\) .* and \(2, 1, 3\)"),
        (np.ones((6, 4)), np.ones((6, 1, DIM)), r"k <= 5, got \(6, 4\)"),
        (np.ones((2, 4)), np.full((2, 1, DIM), 1e6), "not finite in float16"),
    ],
)
def test_write_refuses_what_does_not_fit(tmp_path, manifest, boxes, embeddings, message):
    store = EmbeddingStore.create(tmp_path / "store", manifest)
    with pytest.raises(ValueError, match=message):
        store.write([0], [boxes], [embeddings])
    assert len(store.pending()) == 3


@pytest.mark.parametrize("file", ["embeddings", "boxes"])
def test_damage_is_named(complete, file):
    array = np.load(complete / f"{file}.npy")
    array[2, 1] = np.inf
    np.save(complete / f"{file}.npy", array)
    store = EmbeddingStore.open(complete)
    store.lookup(7)
    with pytest.raises(StoreError, match=f"{file} of image id 3 are not finite; delete"):
        store.lookup(3)
    os.truncate(complete / f"{file}.npy", 130)
    with pytest.raises(StoreError, match=f"(?s)damaged: {file}.npy.*precompute.py regions"):
        EmbeddingStore.open(complete)


@pytest.mark.parametrize("count", [6, -1])
def test_odd_counts_are_refused(complete, count):
    np.save(complete / "counts.npy", np.array([2, 0, count]))
    store = EmbeddingStore.open(complete)
    store.lookup(7)
    with pytest.raises(StoreError, match=f"damaged: it counts {count} regions of image id 3; del"):
        store.lookup(3)


@pytest.mark.parametrize(
    "most, message",
    [
        (0, "0 is not a possible number of regions"),
        (-1, "-1 is not"),
        (1.5, "1.5 is not"),
        (None, "None is not"),
        (4, r"boxes.npy is float32 \(3, 5, 4\), its manifest asks for float32 \(3, 4, 4\)"),
    ],
)
def test_odd_numbers_of_regions_are_refused(complete, most, message):
    manifest = json.loads((complete / "manifest.json").read_text())
    (complete / "manifest.json").write_text(json.dumps(manifest | dict(max_regions=most)))
    with pytest.raises(StoreError, match=message):
        EmbeddingStore.open(complete)


def test_pickling_takes_the_path_along(complete):
    data = pickle.dumps(EmbeddingStore.open(complete))
    assert len(data) < 500
    assert np.array_equal(
        pickle.loads(data).lookup(3)[1], EmbeddingStore.open(complete).lookup(3)[1]
    )
