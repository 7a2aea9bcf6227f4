"""Stores that several processes fill: a part each, joined at the end."""

import os
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from detectron2.utils import comm
from PIL import Image

from gridclip.data.embedding_store import EmbeddingManifest, EmbeddingStore
from gridclip.data.filling import Filling
from gridclip.data.parts import Part, join
from gridclip.data.store import StoreError
from ranks import run_ranks

IMAGES, K, DIM = 13, 3, 4
BOXES = np.float32([(0, 0, 1, 1), (0, 0, 2, 2), (0, 0, 3, 3)])
MANIFEST = EmbeddingManifest(
    dataset="toy",
    image_ids=tuple(range(100, 100 + IMAGES)),
    teacher="RN50",
    teacher_sha256="ab" * 32,
    preprocessing="",
    regions="proposals",
    regions_sha256="ef" * 32,
    max_regions=K,
    mirror=False,
    dim=DIM,
)


def boxes_of(row):
    return BOXES[: row % (K + 1)]  # none of some images


def values_of(row):
    return np.full((row % (K + 1), 1, DIM), row + 1, np.float16)


def write(into, *rows):
    into.write(rows, [boxes_of(row) for row in rows], [values_of(row) for row in rows])


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def expected(tmp_path):
    """What one process makes."""
    store = EmbeddingStore.create(tmp_path / "one", MANIFEST)
    write(store, *range(IMAGES))
    return contents(store.path)


@pytest.fixture
def records(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    record = dict(file_name=str(tmp_path / "images" / "a.png"), width=8, height=8)
    return [record | dict(image_id=i) for i in MANIFEST.image_ids]


def fill(path, records, act=lambda rank, done, filling: None):
    """One rank's work; ``act`` is called before each write. Returns the rows it has written."""
    store = EmbeddingStore.create(path, MANIFEST)
    filling = Filling(store, records, len, num_workers=0, description="toy")
    rows = []
    for row, _ in filling.pictures():
        act(comm.get_rank(), len(rows), filling)
        write(filling, row)
        rows.append(row)
    filling.finish()
    return rows


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_make_the_store_of_one_process(tmp_path, records, expected, world):
    rows = run_ranks(world, tmp_path, fill, tmp_path / "shared", records)
    assert rows == [list(range(rank, IMAGES, world)) for rank in range(world)]
    assert contents(tmp_path / "shared") == expected  # no parts/ beside the files


def kill_one(killed, rank, done, filling):
    if rank == killed and done == 2:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_after_a_kill_any_number_of_ranks_goes_on(tmp_path, records, expected, killed, world):
    path = tmp_path / "shared"
    outcomes = run_ranks(2, tmp_path, fill, path, records, partial(kill_one, killed))
    assert outcomes[killed] == -signal.SIGKILL and isinstance(outcomes[1 - killed], RuntimeError)
    with pytest.raises(StoreError, match="0 of 13 rows are done.* 100, and 2 parts are to be join"):
        EmbeddingStore.open(path)
    rows = run_ranks(world, tmp_path, fill, path, records)
    others = range(killed + 4, IMAGES, 2)  # two of the killed one's rows were written
    assert sorted(sum(rows, [])) == list(others)
    assert contents(path) == expected


def make_part(path, *writes):
    """A part as a killed process leaves it: the store, and the part's file."""
    store = EmbeddingStore.create(path, MANIFEST)
    part = Part(store)
    for rows in writes:
        write(part, *rows)
    (file,) = (path / "parts").iterdir()
    return store, file


@pytest.mark.parametrize("byte", [50, -1])
def test_a_damaged_part_is_refused_and_named(tmp_path, records, expected, byte):
    store, file = make_part(tmp_path / "shared", [0, 1, 2], [3])
    data = bytearray(file.read_bytes())
    data[byte] ^= 1
    file.write_bytes(data)
    for error in run_ranks(2, tmp_path, fill, store.path, records):  # both say it, none waits
        assert isinstance(error, StoreError)
        assert f"{file} is damaged" in str(error) and "Delete that file" in str(error)
    file.unlink()
    rows = run_ranks(2, tmp_path, fill, store.path, records)
    assert sorted(sum(rows, [])) == list(range(0 if byte == 50 else 3, IMAGES))  # sound: 0, 1, 2
    assert contents(store.path) == expected


def test_a_part_of_another_store_is_refused(tmp_path):
    _, file = make_part(tmp_path / "one", [0])
    other = EmbeddingStore.create(tmp_path / "two", replace(MANIFEST, teacher="RN101"))
    (other.path / "parts").mkdir()
    file.rename(other.path / "parts" / file.name)
    with pytest.raises(StoreError, match="of another store: its digest differs"):
        join(other)


@pytest.mark.parametrize("cut", [1, 60])
def test_a_write_that_was_cut_off_is_left_out(tmp_path, cut, caplog):
    store, file = make_part(tmp_path / "shared", [5, 6], [7])
    os.truncate(file, file.stat().st_size - cut)
    join(store)
    assert sorted(set(range(IMAGES)) - set(store.pending().tolist())) == [5, 6]
    assert f"{file} ends within a write" in caplog.text and not file.exists()


@pytest.mark.parametrize("change", [-1, 1])
def test_a_part_of_another_size_than_was_written_is_refused(tmp_path, change):
    store, file = make_part(tmp_path / "shared", [5, 6])
    size = file.stat().st_size
    os.truncate(file, size + change)
    with pytest.raises(StoreError, match=f"{file.name} has .* of the {size:,} that were written"):
        join(store, {file.name: size})
    with pytest.raises(StoreError, match="gone.part has 0 bytes, of the 9"):
        join(EmbeddingStore.create(tmp_path / "empty", MANIFEST), {"gone.part": 9})


def test_a_damaged_length_in_a_part_that_was_closed_is_refused(tmp_path):
    store, file = make_part(tmp_path / "shared", [5, 6])
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreError, match=f"{file.name} is damaged"):
        join(store, {file.name: len(data)})


def test_a_kill_while_parts_are_joined_loses_nothing(tmp_path, expected, monkeypatch):
    store, _ = make_part(tmp_path / "shared", list(range(6)))
    second = Part(store)
    write(second, *range(5, IMAGES))
    calls, original = [], EmbeddingStore.write

    def interrupted(*args):
        original(*args)
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(EmbeddingStore, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        join(store)
    monkeypatch.undo()
    join(store)
    assert contents(store.path) == expected and calls == [1]


def test_rows_that_are_done_stay_as_they_are(tmp_path):
    store, _ = make_part(tmp_path / "shared", [1, 2])
    store.write([1], [boxes_of(1)], [values_of(1) + 1])
    join(store)
    assert store.lookup(101)[1].max() == 3 and store.lookup(102)[1].max() == 3


def test_large_parts_are_joined_in_pieces(tmp_path, expected, monkeypatch):
    monkeypatch.setattr("gridclip.data.parts._JOINED_AT_ONCE", 1)
    store, _ = make_part(tmp_path / "shared", *([row] for row in range(IMAGES)))
    join(store)
    assert contents(store.path) == expected


def test_a_part_refuses_what_its_store_would(tmp_path):
    part = Part(EmbeddingStore.create(tmp_path / "shared", MANIFEST))
    with pytest.raises(ValueError, match="not finite"):
        part.write([1], [boxes_of(1)], [values_of(1) * np.nan])
    with pytest.raises(ValueError, match="2 rows, but 1 images"):
        part.write([1, 2], [boxes_of(1)], [values_of(1)])
    part.write([], [], [])
    assert part.close() == {} and not (tmp_path / "shared" / "parts").exists()


def test_what_a_part_tells_is_its_size(tmp_path):
    store = EmbeddingStore.create(tmp_path / "shared", MANIFEST)
    part = Part(store)
    write(part, 1)
    told = part.close()
    (file,) = (store.path / "parts").iterdir()
    assert told == {file.name: file.stat().st_size}
    join(store, told)
    assert store.is_done(np.array([0, 1])).tolist() == [False, True]
