"""scripts/slurm/: batch scripts are consistent, and their commands run.

srun and scontrol are replaced by programs that do the same on this machine, so that what a node
would run is run, with two agents of torchrun.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drawings import make_lvis_root
from gridclip.data.embedding_store import EmbeddingStore
from laptop_world.shapes import generate_shapes
from world import draw_world

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts/slurm").iterdir())
OPTIONS = set(
    "job-name nodes ntasks-per-node gpus-per-node cpus-per-task mem mem-per-cpu time".split()
    + "requeue signal open-mode output".split()
)  # of sbatch's manual
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)

SRUN = """#!/bin/bash
# Runs the command once for every node, with its number, and fails if it fails anywhere.
while [[ $1 == --*=* ]]; do shift; done
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do
  SLURM_NODEID=$node "$@" & processes+=($!)
done
for process in "${processes[@]}"; do wait "$process" || code=$?; done
exit ${code:-0}
"""
SCONTROL = """#!/bin/bash
[ "$1 $2" = "show hostnames" ] && printf '127.0.0.1\\n127.0.0.1\\n' || echo "$@" >> "$SCONTROL_LOG"
"""


def options(script: Path) -> dict[str, str]:
    lines = re.findall(r"^#SBATCH (.*)$", script.read_text(), re.M)
    return {
        name: value for name, _, value in (line.removeprefix("--").partition("=") for line in lines)
    }


def test_scripts_are_there():
    assert [script.name for script in SCRIPTS] == [
        "reproduce.sbatch",
        "teacher_pass.sbatch",
        "train.sbatch",
    ]


@each_script
def test_syntax(script):
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert text.startswith("#!/bin/bash\n")
    # Slurm reads no option after the first command.
    assert text.rindex("\n#SBATCH") < text.index("\nset -euo pipefail")
    assert all(len(line) <= 100 for line in text.splitlines())


@each_script
def test_options(script):
    found, text = options(script), script.read_text()
    assert found.keys() <= OPTIONS
    assert re.fullmatch(r"\d+:\d\d:\d\d", found["time"])
    assert found["nodes"].isdigit() and found["ntasks-per-node"] == "1"
    # A job that comes back must neither overwrite its log nor begin anew.
    assert found["requeue"] == "" and found["open-mode"] == "append"
    seconds = re.fullmatch(r"B:USR1@(\d+)", found["signal"])[1]
    assert re.search(rf"^trap 'scontrol requeue .* USR1 +# {seconds} s before", text, re.M)
    # Without it a step of a recent Slurm has one core.
    assert '--cpus-per-task="$SLURM_CPUS_PER_TASK"' in text and "cpus-per-task" in found


@each_script
def test_torchrun_fits_the_options(script):
    found, text = options(script), script.read_text()
    if "torchrun" not in text:
        assert found["nodes"] == "1" and "gpus-per-node" not in found
        return
    assert "gpus-per-node" in found
    for option, variable in {
        "nnodes": "SLURM_JOB_NUM_NODES",
        "node-rank": "SLURM_NODEID",
        "nproc-per-node": "SLURM_GPUS_ON_NODE",
        "master-addr": "MASTER_ADDR",
        "master-port": "MASTER_PORT",
    }.items():
        assert f'--{option} "${variable}"' in text
    # $SLURM_NODEID is the node's own, so srun's shell has to read it.
    command = re.search(r"bash -c '([^']*)'", text)[1]
    assert "$SLURM_NODEID" in command and "exec torchrun" in command
    assert "--kill-on-bad-exit=1" in text


@pytest.fixture
def slurm(tmp_path):
    """Starts a batch script as Slurm does; returns the process, which writes into "log"."""
    programs = tmp_path / "programs"
    programs.mkdir()

    def install(name: str, text: str) -> None:
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def start(script: str, *arguments: str, nodes: int = 2, srun: str = SRUN, **env: str):
        install("srun", srun)
        install("scontrol", SCONTROL)
        tools = {Path(sys.executable).parent}  # torchrun
        given = {
            "PATH": os.pathsep.join(map(str, (programs, *tools, os.environ["PATH"]))),
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "projects/GridCLIP", ROOT / "tests"))),
            "SCONTROL_LOG": str(tmp_path / "scontrol"),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": str(nodes),
            "SLURM_GPUS_ON_NODE": "1",
            "SLURM_CPUS_PER_TASK": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }
        # The script would put the .venv's programs before the pretended ones.
        text = (ROOT / "scripts/slurm" / script).read_text().replace("-d .venv", "-d none")
        (tmp_path / script).write_text(text)
        with open(tmp_path / "log", "w") as log:
            return subprocess.Popen(
                ["bash", tmp_path / script, *arguments],
                cwd=ROOT,
                env=os.environ | given | env,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    return start


@pytest.mark.slow
def test_two_nodes_train(slurm, tmp_path, tiny_clip):
    draw_world(tmp_path / "world")
    output = tmp_path / "output"
    (tmp_path / "config.py").write_text(
        "from pathlib import Path\nfrom world import tiny_config\n"
        f"cfg = tiny_config(*map(Path, {[str(tmp_path / 'world'), str(tiny_clip), str(output)]}))\n"
        "model, clip, data, dataloader = cfg.model, cfg.clip, cfg.data, cfg.dataloader\n"
        "train, optimizer, lr_multiplier = cfg.train, cfg.optimizer, cfg.lr_multiplier\n"
    )
    config = ("--config-file", str(tmp_path / "config.py"), "train.device=cpu")
    process = slurm("train.sbatch", "--dry-run", *config)
    log = tmp_path / "log"
    assert process.wait() == 0, log.read_text()[-4000:]
    assert "Dry run: losses" in log.read_text()
    assert "resume=True" in log.read_text()
    assert "Rank of current process: 0. World size: 2" in log.read_text()


@pytest.mark.slow
def test_two_nodes_fill_a_store(slurm, tmp_path, archive):
    root = make_lvis_root(tmp_path / "datasets", range(1, 9))
    store = tmp_path / "store"
    data = ("--dataset", "lvis_v1_train", "--clip", str(archive), "--output", str(store))
    options = (*data, "--device", "cpu", "--num-workers", "0")
    process = slurm("teacher_pass.sbatch", "images", *options, DETECTRON2_DATASETS=str(root))
    assert process.wait() == 0, (tmp_path / "log").read_text()[-4000:]
    assert "8 of 8 images done" in (tmp_path / "log").read_text()
    assert len(EmbeddingStore.open(store).pending()) == 0


@pytest.mark.slow
def test_the_laptop_world_is_planned(slurm, tmp_path):
    generate_shapes("dev", tmp_path / "datasets/shapes", train=8, val=4)
    part = ("--world", "dev", "--variants", "gridclip", "--seeds", "0", "1")
    options = (*part, "--output", str(tmp_path / "output"), "--snakemake", "--dry-run")
    root = str(tmp_path / "datasets")
    process = slurm("reproduce.sbatch", *options, nodes=1, DETECTRON2_DATASETS=root)
    assert process.wait() == 0, (tmp_path / "log").read_text()[-4000:]
    assert (tmp_path / "output/dev/plan.json").is_file()


@pytest.mark.parametrize("code", [0, 3])
@each_script
def test_the_signal_puts_the_job_back_and_the_exit_code_is_passed_on(slurm, tmp_path, script, code):
    until_end = "until [ -e end ]; do sleep 0.05; done"
    waiting = f"#!/bin/bash\ncd '{tmp_path}'; touch begun; {until_end}; exit {code}\n"
    process = slurm(script.name, srun=waiting)
    wait_for((tmp_path / "begun").exists)
    process.send_signal(signal.SIGUSR1)
    asked = tmp_path / "scontrol"
    wait_for(lambda: asked.exists() and asked.read_text() == f"requeue {os.getpid()}\n")
    assert process.poll() is None  # it is Slurm that ends the job
    (tmp_path / "end").touch()
    assert process.wait() == code


def wait_for(happened) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)
