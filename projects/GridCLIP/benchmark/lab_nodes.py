"""Compare a job on several nodes with the same job in one process, also where a node dies.

    python -m benchmark.lab_nodes --json projects/GridCLIP/results/lab.json

The nodes are agents of torchrun on this machine's loopback, on the CPU, with Gloo. The data are a
few pictures of the laptop world. Five jobs are compared:

* CLIP's embeddings of windows and of regions: the stores have equal files;
* a training: losses and weights differ as little as two sums in another order do;
* an evaluation of one file of weights: all metrics are equal;
* a training and a pass of the teacher on several nodes, one of which is killed with all its
  processes; then all are stopped, and the same command goes on: equal to the run without a kill.

The key "multi_node" of the file is replaced, other keys stay.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch

from gridclip.evaluation import read_results

from .environment import environment
from .sections import write_sections

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "projects/GridCLIP/configs/laptop"
CLIP = ROOT / "projects/GridCLIP/laptop_world/models/shapes_clip.safetensors"
TRAIN_NET = str(ROOT / "projects/GridCLIP/train_net.py")
PRECOMPUTE = str(ROOT / "scripts/precompute.py")
LONGEST = 3600  # seconds of a job: beyond that it hangs
# For sums in another order: of a loss, and of the weights relative to how far they have moved.
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-4, 1e-2


@dataclass
class Nodes:
    """The machines that a job runs on.

    Attributes:
        folder: of the data and of all that jobs write.
        nodes: how many; 1 is one process without torchrun.
        processes: of each node.
    """

    folder: Path
    nodes: int
    processes: int
    _agents: list[psutil.Popen] = field(default_factory=list)

    def run(self, *command: str, die: Callable[[], bool] | None = None) -> float:
        """Run a command on all nodes; returns the seconds.

        Args:
            die: asked again and again; once it says so, the last node loses its power, and the
                others are told to stop, as Slurm does.

        Raises:
            RuntimeError: a node fails, or all are through before one could die.
        """
        start = time.monotonic()
        self._agents = [self._start(rank, command) for rank in range(self.nodes)]
        try:
            while die is not None and not die():
                self._check_time(start, command)
                if any(agent.poll() is not None for agent in self._agents):
                    raise RuntimeError(
                        f"{command[0]} ended before a node could die: {self._log(0)}"
                    )
                time.sleep(0.001)
            if die is not None:
                _kill(self._agents[-1])
                for agent in self._agents[:-1]:
                    agent.send_signal(signal.SIGTERM)
            while any(agent.poll() is None for agent in self._agents):
                self._check_time(start, command)
                time.sleep(0.05)
        finally:
            for agent in self._agents:
                _kill(agent)
        for rank, agent in enumerate(self._agents):
            if (agent.returncode == 0) != (die is None):
                end = self._log(rank).read_text()[-3000:]
                raise RuntimeError(f"{command} on node {rank} ended with {agent.returncode}: {end}")
        return time.monotonic() - start

    def _start(self, rank: int, command: Sequence[str]) -> psutil.Popen:
        launcher = [sys.executable]
        if self.nodes > 1:
            if rank == 0:
                self._port = _free_port()
            launcher += ["-m", "torch.distributed.run", "--nnodes", str(self.nodes)]
            launcher += ["--nproc-per-node", str(self.processes), "--node-rank", str(rank)]
            launcher += ["--master-addr", "127.0.0.1", "--master-port", str(self._port)]
        paths = os.pathsep.join([str(ROOT / "projects/GridCLIP"), os.getenv("PYTHONPATH", "")])
        env = os.environ | {
            "DETECTRON2_DATASETS": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": paths,
        }
        with open(self._log(rank), "w") as log:
            return psutil.Popen(
                [*launcher, *command], env=env, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
            )

    def _log(self, rank: int) -> Path:
        return self.folder / f"node_{rank}.log"

    def _check_time(self, start: float, command: Sequence[str]) -> None:
        if time.monotonic() - start > LONGEST:
            raise RuntimeError(f"{command} hangs: {self._log(0).read_text()[-3000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _kill(agent: psutil.Popen) -> None:
    """End an agent and its workers at once, as a power failure does."""
    try:
        processes = [agent, *agent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(processes)


def compare(folder: Path, nodes: int, processes: int, size: tuple[int, int], steps: int) -> dict:
    """Run all jobs in a folder; returns the record.

    Args:
        nodes, processes: of each node, which one process is compared with.
        size: pictures for the training and for the evaluation.
        steps: of a training; a checkpoint is written after every second one.
    """
    before = environment("cpu")
    one, several = Nodes(folder, 1, 1), Nodes(folder, nodes, processes)
    _make_world(one, size)
    runs = [
        *_compare_passes(folder, one, several),
        *_compare_trainings(folder, one, several, steps),
    ]
    for run in runs:
        run.update(nodes=nodes, processes=nodes * processes)
    return {
        "runs": runs,
        "equal": all(run["equal"] for run in runs),
        "tolerance": {"loss": LOSS_TOLERANCE, "weights": WEIGHT_TOLERANCE},
        "pictures": {"train": size[0], "val": size[1]},
        "steps": steps,
        "setup": before,
    }


def _make_world(one: Nodes, size: tuple[int, int]) -> None:
    """Pictures, and the proposals of a ViLD-text that is hardly trained."""
    train, val = map(str, size)
    world = ("--world", "dev", "--output", str(one.folder / "shapes"))
    one.run("-m", "laptop_world.generate", *world, "--train", train, "--val", val)
    vild, output = str(CONFIGS / "vild_text.py"), one.folder / "vild_text"
    settings = ("shapes.world=dev", f"train.output_dir={output}", "train.max_iter=1")
    one.run(TRAIN_NET, "--config-file", vild, *settings)
    weights = ("--weights", str(output / "model_final.pth"), "--max-proposals", "8")
    store = ("--output", str(one.folder / "proposals"), "--num-workers", "0")
    options = (*weights, *store, "--opts", "shapes.world=dev")
    one.run(PRECOMPUTE, "proposals", "--config-file", vild, *options)


def _compare_passes(folder: Path, one: Nodes, several: Nodes) -> list[dict]:
    data = ("--json", str(folder / "shapes/shapes_dev_train.json"), "--images")
    options = (*data, str(folder / "shapes"), "--clip", str(CLIP), "--num-workers", "0")
    command = {
        "images": (PRECOMPUTE, "images", *options, "--batch-size", "1"),
        "regions": (PRECOMPUTE, "regions", *options, "--batch-size", "8")
        + ("--proposals", str(folder / "proposals")),
    }
    runs = []
    for name, what in (("images", "embeddings of windows"), ("regions", "embeddings of regions")):
        alone, together = (folder / f"{name}_{n}" for n in ("one", "several"))
        seconds = {
            "one": one.run(*command[name], "--output", str(alone)),
            "several": several.run(*command[name], "--output", str(together)),
        }
        runs.append(_run(what, seconds, _same_files(alone, together)))
    killed = folder / "images_killed"
    again = (*command["images"], "--output", str(killed))
    first = several.run(*again, die=lambda: _has_begun(killed))
    seconds = {"until the kill": first, "afterwards": several.run(*again)}
    what = "embeddings of windows, a node killed"
    return [*runs, _run(what, seconds, _same_files(folder / "images_one", killed))]


def _has_begun(store: Path) -> bool:
    """Whether a part of a store is there, or a row of it done."""
    if any(path.stat().st_size for path in store.glob("parts/*")):
        return True
    done = store / "done.npy"
    return done.is_file() and any(done.read_bytes()[128:])  # a header of 128 bytes


def _same_files(one: Path, other: Path) -> bool:
    names = [sorted(path.name for path in folder.iterdir()) for folder in (one, other)]
    return names[0] == names[1] and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names[0]
    )


def _compare_trainings(folder: Path, one: Nodes, several: Nodes, steps: int) -> list[dict]:
    config = ("--config-file", str(CONFIGS / "gridclip.py"), "shapes.world=dev")
    # At a small rate the differences of sums do not grow from step to step. AdamW divides gradients
    # by their own size: of those near zero only rounding would be left, hence a large epsilon.
    schedule = (f"train.max_iter={steps}", "train.log_period=1", "optimizer.lr=1e-4")
    schedule += ("optimizer.eps=1e-3",)
    schedule += ("train.checkpointer.period=2", "train.checkpointer.max_to_keep=null")

    def train(on: Nodes, name: str, *options: str, **how) -> float:
        output = f"train.output_dir={folder / name}"
        return on.run(TRAIN_NET, *options, *config, *schedule, output, **how)

    # Who makes the embeddings draws other initial weights.
    one.run(TRAIN_NET, "--dry-run", *config, f"train.output_dir={folder / 'dry_run'}")
    seconds = {"one": train(one, "one"), "several": train(several, "several")}
    loss = _largest_difference_of_losses(folder / "one", folder / "several")
    moved = _difference_of_weights(folder / "one", folder / "several")
    equal = loss <= LOSS_TOLERANCE and moved <= WEIGHT_TOLERANCE
    facts = {"losses_differ_by": loss, "weights_differ_by": moved}
    runs = [_run("training", seconds, equal, **facts)]

    weights = f"train.init_checkpoint={folder / 'one/model_final.pth'}"
    evaluate = (TRAIN_NET, "--eval-only", *config, weights)
    seconds = {
        name: on.run(*evaluate, f"train.output_dir={folder / 'evaluated' / name}")
        for name, on in (("one", one), ("several", several))
    }
    metrics = [read_results(folder / "evaluated" / name / "results.json") for name in seconds]
    alone, together = (json.dumps(entry["metrics"]) for entry in metrics)
    ap = metrics[1]["metrics"]["bbox"]["AP"]
    runs.append(_run("evaluation", seconds, alone == together, AP=ap))

    killed = folder / "killed"
    checkpoint = killed / "last_checkpoint"
    seconds = {"until the kill": train(several, "killed", "--resume", die=checkpoint.is_file)}
    kept = checkpoint.read_text()
    seconds["afterwards"] = train(several, "killed", "--resume")
    moved = _difference_of_weights(folder / "several", killed)
    facts = {"weights_differ_by": moved, "resumed_from": kept}
    equal = moved <= WEIGHT_TOLERANCE
    return [*runs, _run("training, a node killed", seconds, equal, **facts)]


def _run(what: str, seconds: dict[str, float], equal: bool, **facts) -> dict:
    rounded = {name: round(value, 1) for name, value in seconds.items()}
    return {"what": what, "equal": equal, "seconds": rounded, **facts}


def _largest_difference_of_losses(one: Path, other: Path) -> float:
    """Between two trainings, over all losses and steps of metrics.json, which has the median of the
    losses until then; of a loss above 1 the relative one."""
    losses = []
    for folder in (one, other):
        lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
        losses.append({(e["iteration"], k): v for e in lines for k, v in e.items() if "loss" in k})
    if not losses[0] or losses[0].keys() != losses[1].keys():
        raise RuntimeError(f"{one} and {other} have other losses, or of other steps")
    return max(abs(a - losses[1][key]) / max(1, abs(a)) for key, a in losses[0].items())


def _difference_of_weights(one: Path, other: Path) -> float:
    """The length of the difference of two trainings' final weights, relative to how far the first
    has moved them since its first checkpoint."""
    start, first, second = (
        _weights(path)
        for path in (
            min(one.glob("model_0*.pth")),
            one / "model_final.pth",
            other / "model_final.pth",
        )
    )
    return float((first - second).norm() / (first - start).norm())


def _weights(path: Path) -> torch.Tensor:
    """All of floating point, one after another."""
    model = torch.load(path, weights_only=True)["model"]
    return torch.cat(
        [model[k].flatten().double() for k in sorted(model) if model[k].is_floating_point()]
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="its key multi_node is replaced")
    add("--nodes", type=int, default=2)
    add("--processes", type=int, default=2, help="of each node")
    add("--pictures", type=int, nargs=2, default=(160, 64), help="to train on, and to evaluate")
    add("--steps", type=int, default=8)
    args = parser.parse_args(argv)
    with TemporaryDirectory() as folder:
        options = (args.nodes, args.processes, tuple(args.pictures), args.steps)
        record = compare(Path(folder), *options)
    for run in record["runs"]:
        print(f"{run['what']}: {'equal' if run['equal'] else 'DIFFERENT'}, {run['seconds']} s")
    if args.json:
        write_sections(args.json, {"multi_node": record})
    sys.exit(0 if record["equal"] else 1)


if __name__ == "__main__":
    main()
