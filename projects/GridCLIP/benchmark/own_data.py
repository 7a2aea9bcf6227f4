"""GridCLIP beside detectron2's FCOS on one's own data, trained alike, one after the other.

    python -m benchmark.own_data --config-file projects/GridCLIP/configs/custom/bccd.py \\
        --json projects/GridCLIP/results/own_data_bccd.json [key=value ...]

FCOS has learned weights in place of text embeddings, and as many classes as the data have. Data,
augmentations, backbone, neck, towers, steps, optimizer and post-processing are the config's. The
config starts from random weights, so neither has an advantage.
"""

import argparse
import copy
import time
from pathlib import Path

from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from gridclip.engine import do_train
from gridclip.evaluation import read_results
from gridclip.evaluation.results import nan_to_none
from gridclip.files import write_json
from gridclip.settings import load_config

from .environment import environment


def train(cfg: DictConfig, folder: str) -> tuple[dict, float]:
    """Train and evaluate; returns results.json and the seconds of both together."""
    cfg = copy.deepcopy(cfg)
    cfg.train.output_dir = f"{cfg.train.output_dir}/{folder}"
    cfg.train.pictures = 0
    setup_logger(cfg.train.output_dir)
    setup_logger(cfg.train.output_dir, name="fvcore")
    seed_all_rng(cfg.train.seed)
    start = time.monotonic()
    do_train(cfg)
    return read_results(f"{cfg.train.output_dir}/results.json"), time.monotonic() - start


def compare(cfg: DictConfig) -> dict:
    """Train both. GridCLIP's ``metrics`` and ``seconds``, and ``fcos`` with its own."""
    before = environment(cfg.train.device)
    gridclip, seconds = train(cfg, "gridclip")
    other = copy.deepcopy(cfg)
    other.model._target_ = "benchmark.fcos.fcos_of"
    fcos, fcos_seconds = train(other, "fcos")
    facts = ("protocol", "data", "config", "seed", "iterations", "date")
    return {
        "metrics": nan_to_none(gridclip["metrics"]["bbox"]),
        "seconds": round(seconds, 1),
        "fcos": {
            "metrics": nan_to_none(fcos["metrics"]["bbox"]),
            "seconds": round(fcos_seconds, 1),
        },
        **{name: gridclip[name] for name in facts},
        "environment": before,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="CONFIG.py")
    parser.add_argument("--json", required=True, type=Path, metavar="FILE")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    args = parser.parse_args(argv)
    record = compare(load_config(args.config_file, args.opts))
    write_json(args.json, record, indent=1)
    for name, metrics in (("GridCLIP", record["metrics"]), ("FCOS", record["fcos"]["metrics"])):
        print(f"{name}: AP {metrics['AP']:.1f}, AP50 {metrics['AP50']:.1f}")


if __name__ == "__main__":
    main()
