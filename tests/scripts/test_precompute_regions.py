import subprocess
import sys

import numpy as np
import pytest

import precompute as script
from drawings import make_lvis_root
from gridclip.data.embedding_store import EmbeddingStore
from gridclip.data.proposal_store import ProposalManifest, ProposalStore
from killing import assert_same_stores, environment, kill_once_begun

IDS = tuple(range(1, 9))


def make_proposals(path, seed=0, counts=(2, 2, 2, 2, 2, 2, 2, 2)):
    manifest = ProposalManifest(
        dataset="lvis_v1_train", image_ids=IDS, weights_sha256="cd" * 32, max_proposals=3
    )
    store, rng = ProposalStore.create(path, manifest), np.random.default_rng(seed)
    for row, count in enumerate(counts):
        boxes = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * [40, 30]
        store.write([row], [boxes.reshape(count, 4)], [np.ones(count)])
    return path


def make_root(root):
    """A DETECTRON2_DATASETS root whose lvis_v1_train has eight small pictures, with proposals."""
    make_lvis_root(root, IDS)
    make_proposals(root / "proposals")
    return root


@pytest.fixture
def root(tmp_path):
    return make_root(tmp_path / "datasets")


def arguments(dataset, proposals, archive, output, *more):
    options = ["--dataset", dataset, "--proposals", str(proposals), "--clip", str(archive)]
    options += ["--output", str(output), "--device", "cpu", "--num-workers", "0"]
    return ["regions", *options, *more]


def command(root, archive, output, launcher=()):
    # One region a batch: how regions are put together changes the last bits.
    options = arguments("lvis_v1_train", root / "proposals", archive, output, "--batch-size", "2")
    return [sys.executable, *launcher, script.__file__, *options]


def run(root, *args, **kwargs):
    return subprocess.run(
        command(root, *args, **kwargs), env=environment(root), capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def uninterrupted(archive, tmp_path_factory):
    """Store of lvis_v1_train; made by a process of its own, as bits depend on its threads."""
    path = tmp_path_factory.mktemp("uninterrupted")
    result = run(make_root(path / "datasets"), archive, path / "store")
    assert result.returncode == 0, result.stderr
    return path / "store"


def test_makes_a_store_and_says_what_it_did(dataset, root, archive, tmp_path, capsys):
    options = arguments(dataset, root / "proposals", archive, tmp_path / "store")
    assert script.main(options) == 0
    printed = capsys.readouterr()
    assert "8 of 8 images done" in printed.out and "images/s" in printed.out
    assert "16 vectors of width 48, 2.0 an image, 0.0 MB" in printed.out
    assert "8/8" in printed.err  # the progress bar
    store = EmbeddingStore.open(tmp_path / "store", regions="proposals")
    assert store.lookup(7)[1].shape == (2, 48)
    assert script.main(options) == 0
    assert "this run: 0 images" in capsys.readouterr().out


def test_a_damaged_picture_is_named_and_the_exit_code_is_not_zero(
    dataset, root, archive, tmp_path, check_damaged_picture
):
    check_damaged_picture(
        arguments(dataset, root / "proposals", archive, tmp_path / "store"), tmp_path / "store", 8
    )


def test_no_proposals_at_all(dataset, archive, tmp_path, capsys):
    none = make_proposals(tmp_path / "none", counts=(0,) * len(IDS))
    assert script.main(arguments(dataset, none, archive, tmp_path / "store")) == 0
    printed = capsys.readouterr().out
    assert "8 of 8 images done" in printed and "0 vectors" in printed
    assert EmbeddingStore.open(tmp_path / "store").lookup(3)[0].shape == (0, 4)


def test_other_proposals_are_an_error(dataset, root, archive, tmp_path):
    output, others = tmp_path / "store", make_proposals(tmp_path / "others", seed=1)
    script.main(arguments(dataset, root / "proposals", archive, output))
    with pytest.raises(SystemExit, match="error: .*differ in regions_sha256.*Delete that folder"):
        script.main(arguments(dataset, others, archive, output))


def test_missing_proposals_and_weights_are_named(dataset, root, archive, tmp_path):
    with pytest.raises(SystemExit, match="(?s)error: .*gone.*precompute.py proposals"):
        script.main(arguments(dataset, tmp_path / "gone", archive, tmp_path / "store"))
    with pytest.raises(SystemExit, match="gone.pt"):
        weights = tmp_path / "gone.pt"
        script.main(arguments(dataset, root / "proposals", weights, tmp_path / "store"))


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(root, archive, tmp_path, uninterrupted):
    killed = tmp_path / "killed"
    done = kill_once_begun(command(root, archive, killed), environment(root), killed)
    assert 0 < done < 8
    resumed = run(root, archive, killed)
    assert resumed.returncode == 0, resumed.stderr
    assert f"this run: {8 - done} images" in resumed.stdout
    assert_same_stores(killed, uninterrupted)


@pytest.mark.slow
def test_torchrun_with_two_ranks_equals_one(root, archive, tmp_path, uninterrupted):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    result = run(root, archive, tmp_path / "two", launcher=launcher)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("8 of 8 images done") == 1
    assert_same_stores(tmp_path / "two", uninterrupted)
