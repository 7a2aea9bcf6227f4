import json

import numpy as np
import pytest
import torch

from benchmark import lab_nodes as script
from benchmark.lab_nodes import Nodes


@pytest.mark.slow
def test_two_nodes_equal_one_process(tmp_path):
    path = tmp_path / "lab.json"
    path.write_text('{"other": 1}')
    with pytest.raises(SystemExit) as exit:
        script.main(f"--json {path} --processes 1 --pictures 24 8 --steps 4".split())
    record = json.loads(path.read_text())
    nodes = record["multi_node"]
    assert record["other"] == 1 and nodes["equal"], nodes["runs"]
    assert exit.value.code == 0
    assert [run["what"] for run in nodes["runs"]] == [
        "embeddings of windows",
        "embeddings of regions",
        "embeddings of windows, a node killed",
        "training",
        "evaluation",
        "training, a node killed",
    ]
    assert all(run["nodes"] == run["processes"] == 2 for run in nodes["runs"])
    assert nodes["runs"][-1]["resumed_from"].startswith("model_0")
    assert {"processor", "versions", "commit"} <= nodes["setup"].keys()


def test_a_node_that_fails_is_named_with_the_end_of_its_log(tmp_path):
    with pytest.raises(RuntimeError, match="node 0 ended with 1: .*no such luck"):
        Nodes(tmp_path, 1, 1).run("-c", "raise SystemExit('no such luck')")


def test_a_node_dies_with_all_its_processes(tmp_path):
    child = f"import time; open(r'{tmp_path}/begun', 'w'); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    node = Nodes(tmp_path, 1, 1)
    # start_new_session, as torchrun's workers: no signal to a group reaches them.
    node.run(
        "-c", parent.replace("])", "], start_new_session=True)"), die=(tmp_path / "begun").exists
    )
    named = [p.info["cmdline"] for p in script.psutil.process_iter(["cmdline"])]
    assert not any(str(tmp_path) in " ".join(words or []) for words in named)


def test_a_job_that_ends_before_its_node_dies(tmp_path):
    with pytest.raises(RuntimeError, match="ended before a node could die"):
        Nodes(tmp_path, 1, 1).run("-c", "print(1)", die=lambda: False)


def test_a_store_has_begun_with_its_first_row_or_part(tmp_path):
    assert not script._has_begun(tmp_path)
    done = np.zeros(5, np.uint8)
    np.save(tmp_path / "done.npy", done)
    assert not script._has_begun(tmp_path)
    done[3] = 1
    np.save(tmp_path / "done.npy", done)
    assert script._has_begun(tmp_path)
    (tmp_path / "store/parts").mkdir(parents=True)
    (tmp_path / "store/parts/0.part").touch()
    assert not script._has_begun(tmp_path / "store")
    (tmp_path / "store/parts/0.part").write_text("x")
    assert script._has_begun(tmp_path / "store")


def test_stores_of_other_files_differ(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.npy").write_text("same")
    folders = (tmp_path / "one", tmp_path / "other")
    assert script._same_files(*folders)
    (tmp_path / "other/a.npy").write_text("sane")
    assert not script._same_files(*folders)
    (tmp_path / "other/a.npy").write_text("same")
    (tmp_path / "other/part").touch()
    assert not script._same_files(*folders)


def trained(folder, start, end, losses):
    folder.mkdir()
    for name, value in (("model_0000001", start), ("model_final", end)):
        model = {"w": torch.tensor(value), "count": torch.tensor(7)}
        torch.save({"model": model}, folder / f"{name}.pth")
    lines = [json.dumps({"iteration": i, "total_loss": x, "lr": 9}) for i, x in enumerate(losses)]
    (folder / "metrics.json").write_text("\n".join(lines) + "\n")
    return folder


def test_differences_of_trainings(tmp_path):
    one = trained(tmp_path / "one", [0.0, 0.0], [3.0, 4.0], [5.0, 4.0])
    other = trained(tmp_path / "other", [9.0, 9.0], [3.0, 4.5], [5.0, 4.25])
    assert script._largest_difference_of_losses(one, other) == 0.25 / 4
    assert script._difference_of_weights(one, other) == pytest.approx(0.1)
    shorter = trained(tmp_path / "shorter", [0.0, 0.0], [3.0, 4.0], [5.0])
    with pytest.raises(RuntimeError, match="other losses"):
        script._largest_difference_of_losses(one, shorter)


def test_agents_are_told_of_one_another(tmp_path):
    """Two real agents of torchrun: ranks over both, local ranks on each."""
    write = (
        "import os, pathlib; e = os.environ; pathlib.Path("
        f"r'{tmp_path}', 'rank' + e['RANK']).write_text(e['LOCAL_RANK'] + ' ' + e['WORLD_SIZE'])"
    )
    (tmp_path / "worker.py").write_text(write)
    Nodes(tmp_path, 2, 2).run(str(tmp_path / "worker.py"))
    found = {path.name: path.read_text() for path in tmp_path.glob("rank*")}
    assert found == {"rank0": "0 4", "rank1": "1 4", "rank2": "0 4", "rank3": "1 4"}
