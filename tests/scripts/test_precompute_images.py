import shutil
import subprocess
import sys

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

import precompute as script
from drawings import make_lvis_root
from gridclip.data.embedding_store import EmbeddingStore
from killing import assert_same_stores, environment, kill_once_begun

IDS = range(1, 13)


@pytest.fixture
def root(tmp_path):
    return make_lvis_root(tmp_path / "datasets", IDS)


def arguments(dataset, archive, output, *more):
    options = ["--dataset", dataset, "--clip", str(archive), "--output", str(output)]
    return ["images", *options, "--device", "cpu", "--num-workers", "0", *more]


def command(archive, output, launcher=()):
    options = arguments("lvis_v1_train", archive, output, "--batch-size", "1")
    return [sys.executable, *launcher, script.__file__, *options]


def run(root, *args, **kwargs):
    return subprocess.run(
        command(*args, **kwargs), env=environment(root), capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def uninterrupted(archive, tmp_path_factory):
    """Store of lvis_v1_train; made by a process of its own, as bits depend on its threads."""
    path = tmp_path_factory.mktemp("uninterrupted")
    result = run(make_lvis_root(path / "datasets", IDS), archive, path / "store")
    assert result.returncode == 0, result.stderr
    return path / "store"


def test_makes_a_store_and_says_what_it_did(dataset, archive, tmp_path, capsys):
    options = arguments(dataset, archive, tmp_path / "store", "--windows", "whole+tiles9")
    assert script.main(options) == 0
    printed = capsys.readouterr()
    assert "12 of 12 images done" in printed.out and "images/s" in printed.out
    assert "240 vectors of width 48, 20.0 an image, 0.0 MB" in printed.out
    assert "12/12" in printed.err  # the progress bar
    store = EmbeddingStore.open(tmp_path / "store")
    assert store.manifest.dataset == dataset and store.manifest.image_ids == tuple(range(1, 13))
    assert store.lookup(7, mirrored=True)[1].shape == (10, 48)
    assert script.main(options) == 0
    assert "this run: 0 images" in capsys.readouterr().out


def test_annotations_and_a_folder_make_the_same_store(root, archive, tmp_path):
    """--json and --images in place of --dataset."""
    file = root / "lvis" / "lvis_v1_train.json"
    output = ["--clip", str(archive), "--output", str(tmp_path / "store")]
    options = ["images", "--json", str(file), "--images", str(root / "coco"), *output]
    assert script.main([*options, "--device", "cpu", "--num-workers", "0"]) == 0
    store = EmbeddingStore.open(tmp_path / "store")
    assert store.manifest.dataset == "lvis_v1_train.json"
    assert store.manifest.image_ids == tuple(IDS)
    with pytest.raises(SystemExit, match="error: .*give a file and a folder"):
        script.main(["images", "--json", str(file), *output])
    with pytest.raises(SystemExit, match="error: no data set: give a file and a folder"):
        script.main(["images", *output])
    gone = str(tmp_path / "gone.json")
    with pytest.raises(SystemExit, match="not at .*gone.json.*Check the path"):
        script.main(["images", "--json", gone, "--images", str(root), *output])


def test_no_mirror(dataset, archive, tmp_path):
    assert script.main(arguments(dataset, archive, tmp_path / "store", "--no-mirror")) == 0
    store = EmbeddingStore.open(tmp_path / "store")
    assert store.manifest.arrays["embeddings"][0] == (12, 9, 1, 48)


def test_a_damaged_picture_is_named_and_the_exit_code_is_not_zero(
    dataset, archive, tmp_path, check_damaged_picture
):
    check_damaged_picture(arguments(dataset, archive, tmp_path / "store"), tmp_path / "store", 12)


def test_a_store_of_something_else_is_an_error(dataset, archive, tmp_path):
    script.main(arguments(dataset, archive, tmp_path / "store"))
    with pytest.raises(SystemExit, match="error: .*differ in regions.*Delete that folder"):
        script.main(arguments(dataset, archive, tmp_path / "store", "--windows", "whole"))


def test_unknown_or_missing_datasets_are_named(archive, tmp_path):
    with pytest.raises(
        SystemExit, match="No data set 'lvis_v1_trian' is registered; .*lvis_v1_train"
    ):
        script.main(arguments("lvis_v1_trian", archive, tmp_path / "store"))
    DatasetCatalog.register("toy_gone", lambda: open(tmp_path / "gone.json"))
    try:
        with pytest.raises(SystemExit, match="gone.json.*DETECTRON2_DATASETS"):
            script.main(arguments("toy_gone", archive, tmp_path / "store"))
    finally:
        DatasetCatalog.remove("toy_gone")


def test_missing_weights_are_named(dataset, tmp_path):
    with pytest.raises(SystemExit, match="gone.pt"):
        script.main(arguments(dataset, tmp_path / "gone.pt", tmp_path / "store"))


# A small /dev/shm for one process; it takes root.
SMALL = 'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'


@pytest.fixture
def small_shared_memory():
    """The start of a command that has 8 MB, the share of one of eight processes of 64 MB."""
    start = ["unshare", "--mount", "sh", "-c", SMALL.format(size="8m"), "sh"]
    if shutil.which("unshare") is None or subprocess.run([*start, "true"]).returncode != 0:
        pytest.skip("only root may mount a /dev/shm of its own")
    return start


@pytest.mark.slow
def test_a_containers_shared_memory_is_enough(root, make_clip, tmp_path, small_shared_memory):
    large = make_clip(image_resolution=224)  # 18 crops of 150 KB a picture, eight pictures ahead
    options = arguments("lvis_v1_train", large, tmp_path / "store")
    options[options.index("--num-workers") + 1] = "4"
    result = subprocess.run(
        [*small_shared_memory, sys.executable, script.__file__, *options],
        env=environment(root),
        capture_output=True,
        text=True,
        timeout=120,  # a worker that has no room may be waited for without end
    )
    assert result.returncode == 0, result.stderr
    assert "12 of 12 images done" in result.stdout


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(root, archive, tmp_path, uninterrupted):
    killed = tmp_path / "killed"
    done = kill_once_begun(command(archive, killed), environment(root), killed)
    assert 0 < done < 12
    resumed = run(root, archive, killed)
    assert resumed.returncode == 0, resumed.stderr
    assert f"this run: {12 - done} images" in resumed.stdout
    assert_same_stores(killed, uninterrupted)


@pytest.mark.slow
def test_torchrun_with_two_ranks_equals_one(root, archive, tmp_path, uninterrupted):
    (root / "coco" / "train2017" / f"{2:012}.jpg").write_bytes(b"no picture")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    result = run(root, archive, tmp_path / "two", launcher=launcher)
    assert result.returncode != 0
    assert result.stdout.count("11 of 12 images done") == 1, result.stderr
    assert "1 images failed" in result.stderr and "  2 " in result.stderr
    done = np.load(tmp_path / "two" / "done.npy") == 1
    assert np.flatnonzero(~done).tolist() == [1]
    two, one = (np.load(path / "embeddings.npy") for path in (tmp_path / "two", uninterrupted))
    np.testing.assert_array_equal(two[done], one[done])
