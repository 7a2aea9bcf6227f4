import errno
import json
import multiprocessing
import os
import pickle
import signal
from dataclasses import replace

import numpy as np
import pytest

from gridclip.data.embedding_store import EmbeddingManifest, EmbeddingStore
from gridclip.data.store import StoreError

MANIFEST = EmbeddingManifest(
    dataset="toy_train",
    image_ids=(7, 3, "a/b", 12),
    teacher="RN50",
    teacher_sha256="ab" * 32,
    preprocessing="squashed to 64 x 64",
    regions="halves",
    regions_sha256="ef" * 32,
    max_regions=3,
    mirror=True,
    dim=5,
)
WINDOWS = np.float32([(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0)])
SHAPE = (4, 3, 2, 5)  # images, windows, the picture and its mirror image, D


def write(store, rows, embeddings):
    """Fill rows with the three windows and the embeddings of both variants."""
    store.write(rows, [WINDOWS] * len(rows), embeddings)


@pytest.fixture
def embeddings():
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float16)


@pytest.fixture
def complete(tmp_path, embeddings):
    store = EmbeddingStore.create(tmp_path / "store", MANIFEST)
    write(store, range(4), embeddings)
    return store.path


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def run_forked(function, *args):
    process = multiprocessing.get_context("fork").Process(target=function, args=args)
    process.start()
    process.join()
    return process.exitcode


def test_lookup_returns_what_was_written(complete, embeddings):
    store = EmbeddingStore.open(complete)
    for row, image_id in enumerate(MANIFEST.image_ids):
        for mirrored in (False, True):
            boxes, found = store.lookup(image_id, mirrored)
            assert found.dtype == np.float32 and type(found) is np.ndarray
            assert np.array_equal(found, embeddings[row, :, int(mirrored)])
            assert boxes.dtype == np.float32 and np.array_equal(boxes, WINDOWS)
    store.lookup(7)[1][:] = 0  # a copy: the file stays as it is
    assert np.array_equal(store.lookup(7)[1], embeddings[0, :, 0])


def test_files_are_plain_npy_and_json(complete, embeddings):
    files = ["boxes.npy", "counts.npy", "done.npy", "embeddings.npy", "manifest.json"]
    assert sorted(contents(complete)) == files
    found = np.load(complete / "embeddings.npy", allow_pickle=False)
    assert found.dtype == np.float16 and np.array_equal(found, embeddings)
    assert np.array_equal(np.load(complete / "boxes.npy", allow_pickle=False), [WINDOWS] * 4)
    assert np.load(complete / "counts.npy", allow_pickle=False).tolist() == [3, 3, 3, 3]
    assert np.load(complete / "done.npy", allow_pickle=False).tolist() == [1, 1, 1, 1]
    manifest = json.loads((complete / "manifest.json").read_text())
    assert manifest["image_ids"] == [7, 3, "a/b", 12]
    assert manifest["version"] == 2
    assert EmbeddingStore.open(complete).manifest == MANIFEST


def test_embeddings_are_mapped_not_loaded(complete):
    assert isinstance(EmbeddingStore.open(complete)._values, np.memmap)


def test_resume_goes_on_where_it_stopped(tmp_path, complete, embeddings):
    path = tmp_path / "resumed"
    write(EmbeddingStore.create(path, MANIFEST), [2, 0], embeddings[[2, 0]])
    resumed = EmbeddingStore.create(path, MANIFEST)
    assert resumed.pending().tolist() == [1, 3]
    write(resumed, [1, 3], embeddings[[1, 3]])
    assert contents(path) == contents(complete)


def test_pending_rows_are_dealt_out_to_ranks(tmp_path, embeddings):
    store = EmbeddingStore.create(tmp_path / "store", MANIFEST)
    assert store.pending(0, 3).tolist() == [0, 3]
    assert store.pending(2, 3).tolist() == [2]
    assert store.pending(5, 6).tolist() == []
    write(store, [3], embeddings[[3]])
    assert store.pending(0, 3).tolist() == [0]


def create_and_write(path, embeddings, rank, world):
    store = EmbeddingStore.create(path, MANIFEST)
    for row in store.pending(rank, world):
        write(store, [row], embeddings[[row]])


def test_processes_that_race_make_one_store(tmp_path, complete, embeddings):
    path, context = tmp_path / "raced", multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=create_and_write, args=(path, embeddings, rank, 4))
        for rank in range(4)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0, 0, 0]
    assert contents(path) == contents(complete)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raced", "store"]


def test_kill_between_embeddings_and_done_bytes_loses_nothing(tmp_path, complete, embeddings):
    path = tmp_path / "killed"

    class KillOnWrite:
        def __setitem__(self, rows, value):
            os.kill(os.getpid(), signal.SIGKILL)

    def write_and_die():
        store = EmbeddingStore.create(path, MANIFEST)
        write(store, [0, 1], embeddings[:2])
        store._done = KillOnWrite()
        write(store, [2], embeddings[[2]] + 1)

    assert run_forked(write_and_die) == -signal.SIGKILL
    assert np.load(path / "embeddings.npy")[2].any()  # embeddings first, done bytes after them
    store = EmbeddingStore.create(path, MANIFEST)
    assert store.pending().tolist() == [2, 3]
    with pytest.raises(StoreError, match="no embeddings of image id 'a/b' yet"):
        store.lookup("a/b")
    write(store, [2, 3], embeddings[2:])
    assert contents(path) == contents(complete)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(dataset="other"), r"dataset \('other' and 'toy_train'\)"),
        (dict(image_ids=(3, 7, "a/b", 12)), r"image_ids \(4 and 4\)"),
        (dict(image_ids=(7, 3)), r"image_ids \(2 and 4\)"),
        (dict(teacher="RN101", teacher_sha256="cd"), r"teacher \(.*\), teacher_sha256 \("),
        (dict(preprocessing="cropped"), "preprocessing"),
        (
            dict(regions="w", regions_sha256="0", max_regions=1),
            r"regions \('w' and 'halves'\), regions_sha256 \(.*\), max_regions \(1 and 3\)",
        ),
        (dict(mirror=False), r"mirror \(False and True\)"),
        (dict(dim=6), r"dim \(6 and 5\)"),
    ],
)
def test_create_refuses_a_store_of_something_else(complete, change, message):
    before = contents(complete)
    with pytest.raises(StoreError, match=f"(?s){message}.*Delete that folder or choose"):
        EmbeddingStore.create(complete, replace(MANIFEST, **change))
    assert contents(complete) == before


def test_create_leaves_a_foreign_folder_alone(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("precious")
    with pytest.raises(StoreError, match="no embedding store at .*thesis"):
        EmbeddingStore.create(tmp_path / "thesis", MANIFEST)
    assert contents(tmp_path / "thesis") == {"chapter1": b"precious"}
    assert [p.name for p in tmp_path.iterdir()] == ["thesis"]


def test_create_uses_an_empty_folder_and_makes_parents(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "new" / "store"):
        assert len(EmbeddingStore.create(path, MANIFEST).pending()) == 4


def test_full_disk_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(OSError, match="No space left"):
        EmbeddingStore.create(tmp_path / "store", MANIFEST)
    assert not any(tmp_path.iterdir())


def test_missing_store_names_folder_and_command(tmp_path):
    with pytest.raises(StoreError, match="scripts/precompute.py images") as info:
        EmbeddingStore.open(tmp_path / "nowhere")
    assert f"--output {tmp_path / 'nowhere'}" in str(info.value)


def test_incomplete_store_names_first_missing_image_and_command(tmp_path, embeddings):
    write(EmbeddingStore.create(tmp_path / "s", MANIFEST), [0, 2, 3], embeddings[[0, 2, 3]])
    with pytest.raises(StoreError, match=r"3 of 4 rows.*missing one is image id 3\."):
        EmbeddingStore.open(tmp_path / "s")
    with pytest.raises(StoreError) as info:
        EmbeddingStore.open(tmp_path / "s")
    assert f"--dataset toy_train --clip CLIP --output {tmp_path / 's'} --windows halves\n" in str(
        info.value
    )


def truncate(path, file, size):
    os.truncate(path / file, os.stat(path / file).st_size - size)


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("file", ["embeddings.npy", "boxes.npy", "counts.npy", "done.npy"])
def test_damaged_arrays_are_refused(complete, file, writable):
    truncate(complete, file, 1)
    with pytest.raises(StoreError, match=f"(?s){complete}.*{file}.*delete.*--output"):
        EmbeddingStore(complete, writable=writable)
    np.save(complete / file, np.zeros((4, 2), np.float16))
    with pytest.raises(StoreError, match=rf"{file} is float16 \(4, 2\), its manifest"):
        EmbeddingStore(complete, writable=writable)
    np.save(complete / file, np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(StoreError, match=file):
        EmbeddingStore(complete, writable=writable)
    (complete / file).unlink()
    with pytest.raises(StoreError, match=file):
        EmbeddingStore(complete, writable=writable)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.clear(), "KeyError: 'image_ids_sha256'"),
        (lambda m: m.pop("teacher"), "teacher"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m["image_ids"].reverse(), "digest"),
        (lambda m: m.update(image_ids=[7, 7]), "twice"),
        (lambda m: m.update(image_ids=[7, 1.5]), "1.5 is neither"),
        (lambda m: m.update(image_ids=[]), "no images"),
        (lambda m: m.update(max_regions="a"), "'a' is not a possible number of regions"),
        (lambda m: m.update(version=1), "format version 1, where 2 is needed"),
    ],
)
def test_odd_manifests_are_refused(complete, change, message):
    manifest = json.loads((complete / "manifest.json").read_text())
    change(manifest)
    (complete / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=f"(?s)manifest.json.*({message}).*Delete"):
        EmbeddingStore.open(complete)


@pytest.mark.parametrize("text", ["", "[1]", "null", '{"version": 1'])
def test_no_manifest_at_all(complete, text):
    (complete / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match="manifest.json is not a manifest"):
        EmbeddingStore.open(complete)


def test_lookup_names_what_is_not_there(complete, tmp_path):
    store = EmbeddingStore.open(complete)
    with pytest.raises(StoreError, match="holds no image id '7'"):
        store.lookup("7")
    plain = EmbeddingStore.create(tmp_path / "plain", replace(MANIFEST, mirror=False))
    write(plain, range(4), np.ones((4, 3, 1, 5)))
    with pytest.raises(StoreError, match="no mirrored images") as info:
        plain.lookup(7, mirrored=True)
    assert "--no-mirror" not in str(info.value)


def test_values_that_are_not_finite_are_not_handed_out(complete):
    array = np.load(complete / "embeddings.npy")
    array[1, 1, 1, 2] = np.nan  # the second window of the second picture's mirror image
    np.save(complete / "embeddings.npy", array)
    store = EmbeddingStore.open(complete)
    assert np.isfinite(store.lookup(3)[1]).all()
    with pytest.raises(StoreError, match="image id 3 are not finite; delete the folder"):
        store.lookup(3, mirrored=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])
def test_write_refuses_values_that_are_not_finite(tmp_path, embeddings, bad):
    store = EmbeddingStore.create(tmp_path / "store", MANIFEST)
    values = embeddings[:1].astype(np.float32)
    values[0, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="not finite in float16"):
        write(store, [0], values)
    assert len(store.pending()) == 4


def test_write_refuses_other_shapes(tmp_path, complete, embeddings):
    store = EmbeddingStore.create(tmp_path / "other", MANIFEST)
    for values in (embeddings[:1, :2], embeddings[..., :4], embeddings[:1].reshape(1, 3, 5, 2)):
        with pytest.raises(ValueError, match=r"embeddings \('k', 2, 5\) with k <= 3, got \(3, 4\)"):
            write(store, [0], values[:1])
    with pytest.raises(ValueError, match=r"Expected boxes \('k', 4\) .* got \(2, 4\)"):
        store.write([0], [WINDOWS[:2]], embeddings[:1])
    with pytest.raises(ValueError, match=r"k <= 3, got \(6, 4\)"):
        store.write([0], [[*WINDOWS] * 2], [[*embeddings[0]] * 2])
    for rows, values in (([0, 1], embeddings[:1]), ([0], embeddings[:2])):
        with pytest.raises(ValueError, match=r"zip\(\) argument"):
            write(store, rows, values)
    with pytest.raises(ValueError, match="Expected boxes"):  # nothing of a bad call is kept
        write(store, [0, 1], [embeddings[0], embeddings[1, :2]])
    assert len(store.pending()) == 4
    write(store, [], embeddings[:0])
    assert len(store.pending()) == 4
    with pytest.raises(ValueError, match="read-only"):
        write(EmbeddingStore.open(complete), [0], embeddings[:1])


def test_open_accepts_what_fits_and_names_what_does_not(complete, tmp_path):
    EmbeddingStore.open(complete, regions="halves", mirror=True)
    with pytest.raises(StoreError, match="regions are 'halves', not 'whole'.*delete") as info:
        EmbeddingStore.open(complete, regions="whole")
    assert "--windows whole" in str(info.value)
    with pytest.raises(StoreError, match="scripts/precompute.py regions --proposals PROPOSALS"):
        EmbeddingStore.open(complete, regions="proposals")
    plain = EmbeddingStore.create(tmp_path / "plain", replace(MANIFEST, mirror=False))
    write(plain, range(4), np.ones((4, 3, 1, 5)))
    EmbeddingStore.open(plain.path, regions="halves")
    with pytest.raises(StoreError, match="'halves', not 'whole'; it holds no mirrored images"):
        EmbeddingStore.open(plain.path, regions="whole", mirror=True)


def test_pickle_takes_the_path_along_and_not_the_data(tmp_path):
    manifest = replace(MANIFEST, image_ids=tuple(range(2000)))
    store = EmbeddingStore.create(tmp_path / "store", manifest)
    write(store, [5], np.ones((1, 3, 2, 5)))
    data = pickle.dumps(store)
    assert len(data) < 500
    copy = pickle.loads(data)
    assert copy.writable and np.array_equal(copy.lookup(5)[1], store.lookup(5)[1])
    write(store, [6], np.ones((1, 3, 2, 5)))
    assert 6 not in copy.pending()  # the same files
