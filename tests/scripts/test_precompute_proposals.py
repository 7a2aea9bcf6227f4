"""The command on a trained (here: initialised) ViLD and drawn pictures."""

import os
import subprocess
import sys

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

import precompute as script
from gridclip.data.proposal_store import ProposalStore
from gridclip.engine import GridCLIPCheckpointer
from gridclip.engine.prepare import prepare_text_embeddings
from gridclip.engine.train import build_model
from gridclip.files import sha256_of_file
from world import save_untrained_vild, tiny_config


@pytest.fixture(scope="module")
def run_folder(world, tiny_clip, tmp_path_factory):
    """config.yaml and detector.pth: what a training leaves."""
    return save_untrained_vild("text", world, tiny_clip, tmp_path_factory.mktemp("run"))


@pytest.fixture
def arguments(run_folder, tmp_path):
    files = ["--config-file", run_folder / "config.yaml", "--weights", run_folder / "detector.pth"]
    options = ["--output", tmp_path / "proposals", "--max-proposals", 5, "--num-workers", 0]
    return ["proposals", *map(str, files + options)]


def replaced(arguments, option, value):
    index = arguments.index(option) + 1
    return [*arguments[:index], str(value), *arguments[index + 1 :]]


def test_fills_a_store_and_prints_its_summary(arguments, run_folder, tmp_path, capsys):
    assert script.main(arguments) == 0
    store = ProposalStore.open(tmp_path / "proposals")
    assert store.manifest.dataset == "annotations.json"  # the config's data.train
    assert store.manifest.weights_sha256 == sha256_of_file(run_folder / "detector.pth")
    assert store.manifest.image_ids == tuple(range(1, 13)) and store.counts.tolist() == [5] * 12
    printed = capsys.readouterr()
    assert "12 of 12 images done" in printed.out and "60 proposals, 5.0 an image" in printed.out
    assert "warning" not in printed.err
    assert script.main(arguments) == 0  # nothing to do
    assert "this run: 0 images" in capsys.readouterr().out


def test_output_defaults_to_the_configs(arguments, run_folder):
    without = arguments[: arguments.index("--output")]
    assert script.main([*without, "--max-proposals", "3", "--num-workers", "0"]) == 0
    assert ProposalStore.open(run_folder / "proposals").manifest.max_proposals == 3


def test_all_categories_in_training_are_warned_about(arguments, world, capsys):
    assert script.main([*arguments, "--opts", "data.novel=null"]) == 0
    trained_on = world / "annotations.json"
    assert f"warning: the config trains on {trained_on}, which leaves no" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["backbone.fpn_lateral3.weight", "proposal_generator.rpn_head."])
def test_weights_that_leave_a_part_untrained_are_refused(arguments, run_folder, tmp_path, part):
    saved = torch.load(run_folder / "detector.pth", weights_only=True)
    saved["model"] = {k: v for k, v in saved["model"].items() if not k.startswith(part)}
    torch.save(saved, tmp_path / "partial.pth")
    with pytest.raises(SystemExit, match=f"partial.pth holds another detector .*{part}"):
        script.main(replaced(arguments, "--weights", tmp_path / "partial.pth"))
    assert not (tmp_path / "proposals").exists()


def test_clip_weights_are_no_trained_detector(arguments, tiny_clip):
    with pytest.raises(SystemExit, match="error: .*holds a CLIP model"):
        script.main(replaced(arguments, "--weights", tiny_clip))


def test_mistakes_are_named(arguments, world, tiny_clip, tmp_path):
    for option, value, message in [
        ("--weights", tmp_path / "none.pth", "No weights at .*none.pth"),
        ("--config-file", tmp_path / "none.py", "none.py"),
        ("--max-proposals", 51, "raise model.proposal_generator.post_nms_topk"),
    ]:
        with pytest.raises(SystemExit, match=f"error: .*{message}"):
            script.main(replaced(arguments, option, value))
    names = ["data.train.dataset=lvis_v1_trian", "data.train.json=null", "data.train.images=null"]
    with pytest.raises(
        SystemExit, match="No data set 'lvis_v1_trian' is registered; close names: .*lvis_v1_train"
    ):
        script.main([*arguments, "--opts", *names])


def test_gridclip_has_no_proposals(arguments, world, tiny_clip, tmp_path):
    cfg = tiny_config(world, tiny_clip, tmp_path / "output")
    cfg.model.federated_weights = None
    LazyConfig.save(cfg, str(tmp_path / "gridclip.yaml"))
    prepare_text_embeddings(cfg, instantiate(cfg.data.train))
    GridCLIPCheckpointer(build_model(cfg), str(tmp_path)).save("gridclip")
    changed = replaced(arguments, "--config-file", tmp_path / "gridclip.yaml")
    with pytest.raises(SystemExit, match="does not describe a ViLD"):
        script.main(replaced(changed, "--weights", tmp_path / "gridclip.pth"))


def test_bad_picture_is_named_and_fails_the_command(arguments, world, tmp_path, capsys):
    picture = world / "train2017" / "2.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:60])
    try:
        assert script.main(arguments) == 1
    finally:
        picture.write_bytes(whole)
    printed = capsys.readouterr()
    assert "11 of 12 images done" in printed.out and "2.png" in printed.err
    assert script.main(arguments) == 0


@pytest.mark.slow
def test_two_ranks_fill_one_store(arguments, tmp_path):
    assert script.main(arguments) == 0
    changed = replaced(arguments, "--output", tmp_path / "shared")
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    process = subprocess.run(
        [sys.executable, *launcher, script.__file__, *changed],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.returncode == 0, process.stdout[-3000:]
    assert "12 of 12 images done" in process.stdout
    digests = {ProposalStore.open(tmp_path / n).digest() for n in ("proposals", "shared")}
    assert len(digests) == 1
