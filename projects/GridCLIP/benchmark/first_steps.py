"""The first training steps on a GPU: seconds a step, peak memory, positive locations and losses.

    python -m benchmark.first_steps --json FILE

GridCLIP R50 with LVIS's names takes the first steps of its schedule in train_net.py's own trainer,
in float32 and in mixed precision, with several batches. Pictures, boxes, embeddings and weights are
random, the same for all runs; no file and no network is needed. Without a GPU there is float32
alone and no memory.
"""

import argparse
import copy
import gc
import itertools
import time
from pathlib import Path
from statistics import median

import torch
from detectron2.config import instantiate
from detectron2.engine import hooks
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from tabulate import tabulate
from torch import nn

from gridclip.engine.train import build_optimizer, build_trainer
from gridclip.files import write_json

from .contestants import build_from, load_config, text_embeddings
from .environment import environment
from .inputs import random_pictures, training_batch
from .random_weights import calibrate_norms

CONFIG = Path(__file__).parents[1] / "configs/lvis/gridclip_r50_ov_1x.py"
PICTURES = 16  # batches go round in them
WARM_UP = 2  # steps that are not timed


def measure_all(
    cfg: DictConfig, size: tuple[int, int], batch_sizes: list[int], steps: int, device: str
) -> list[dict]:
    """A record of each run, see :func:`measure`: all batch sizes in all precisions.

    Args:
        cfg: of GridCLIP; sets model, windows, optimizer and schedule.
        size: (height, width) of a picture in pixels.
        steps: of each run, more than two.
    """
    torch.manual_seed(cfg.train.seed)
    model = build_from(cfg, text_embeddings(cfg)).train()
    pictures = training_batch(model, random_pictures(PICTURES, *size), cfg.clip.windows)
    calibrate_norms(model, pictures[:2])
    mixed = [False, True] if torch.device(device).type == "cuda" else [False]
    records = []
    for amp, batch_size in itertools.product(mixed, batch_sizes):
        cfg.train.amp.enabled = amp
        records.append(measure(cfg, model, pictures, batch_size, steps, device))
        print(_table(records[-1:]))
    return records


def measure(
    cfg: DictConfig,
    model: nn.Module,
    pictures: list[dict],
    batch_size: int,
    steps: int,
    device: str,
) -> dict:
    """Train a copy of the model.

    Args:
        cfg: says with ``train.amp`` whether in mixed precision; see also :func:`measure_all`.
        pictures: inputs of the model, of which batches are made in turn.

    Returns:
        "precision" and "batch_size"; "seconds_a_step", the median, and all "seconds"; on CUDA the
        most MiB that tensors held, model and optimizer included, "peak_mib", and that the allocator
        held, "reserved_mib"; of each step "lr", "positives", the positive locations an image, and
        "losses" by name.
    """
    on_cuda = torch.device(device).type == "cuda"
    gc.collect()
    if on_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    own = copy.deepcopy(model).to(device)
    endless = itertools.cycle(pictures)
    batches = [list(itertools.islice(endless, batch_size)) for _ in range(steps)]
    trainer = build_trainer(cfg, own, batches, build_optimizer(cfg, own))
    trainer.register_hooks([hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier))])
    trainer.max_iter = cfg.train.max_iter  # the schedule is that of the whole run
    seconds, scalars = [], []
    with EventStorage() as trainer.storage:
        trainer.before_train()
        for trainer.iter in range(steps):
            start = time.perf_counter()
            trainer.run_step()
            if on_cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
            trainer.after_step()
            scalars.append({name: value for name, (value, _) in trainer.storage.latest().items()})
            trainer.storage.step()
    precision = getattr(trainer, "precision", torch.float32)
    return {
        "precision": str(precision).removeprefix("torch."),
        "batch_size": batch_size,
        "seconds_a_step": median(seconds[WARM_UP:]),
        "seconds": seconds,
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if on_cuda else None,
        "reserved_mib": torch.cuda.max_memory_reserved() / 2**20 if on_cuda else None,
        "lr": [x["lr"] for x in scalars],
        "positives": [x["num_positives"] for x in scalars],
        "losses": {
            name: [x[name] for x in scalars] for name in sorted(scalars[0]) if "loss" in name
        },
    }


def _table(records: list[dict]) -> str:
    rows = [
        [
            *(r["precision"], r["batch_size"], r["seconds_a_step"], r["peak_mib"]),
            *(r["positives"][-1], r["losses"]["total_loss"][0], r["losses"]["total_loss"][-1]),
        ]
        for r in records
    ]
    headers = ("precision", "batch", "s a step", "peak MiB", "positives", "first loss", "last loss")
    return tabulate(rows, headers, floatfmt=".4g")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", type=int, nargs=2, default=(1024, 1024), metavar=("H", "W"))
    add("--batch-sizes", type=int, nargs="+", default=[2, 4, 8], metavar="N")
    add("--steps", type=int, default=20, help="of each run (default: 20); the first 2 untimed")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--json", type=Path, required=True, metavar="FILE")
    args = parser.parse_args(argv)
    if args.steps <= WARM_UP:
        parser.error(f"--steps: give more than {WARM_UP}")
    cfg = load_config(CONFIG)
    start = time.monotonic()
    runs = measure_all(cfg, tuple(args.size), args.batch_sizes, args.steps, args.device)
    record = {
        "size": list(args.size),
        "categories": len(text_embeddings(cfg)),
        "runs": runs,
        "seconds": time.monotonic() - start,
        "environment": environment(args.device),
    }
    write_json(args.json, record, indent=1)
    print(f"\n{_table(runs)}\n\n{args.json}")


if __name__ == "__main__":
    main()
