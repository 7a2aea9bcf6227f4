"""AP of trainings in float32, bfloat16 and float16, of several seeds: is half precision as good?

    python -m benchmark.amp --json FILE --override shapes.world=dev
    python -m benchmark.amp --json FILE --steps 50 --seeds 0 --override shapes.world=dev

The laptop world's GridCLIP is trained by autocast on the CPU, or with --device cuda on the GPU;
evaluation is in float32 for all. Each run lies in a folder of its own. Give the same command again
after a kill: finished runs are kept, and one that was under way is resumed. Runs may also be
finished one by one, such as those of a seed, and put together by a last command with all seeds.

The file holds the values of each seed, their mean and standard deviation, and the differences from
float32 of the same seeds. These share batches and initial weights, but rounding drives them apart
as another seed would, so the standard deviation over seeds is the noise to compare with.

A run that diverges has its reason in the file and no AP.
"""

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from tabulate import tabulate

from gridclip.engine import do_train
from gridclip.engine.prepare import open_data, prepare_embeddings, prepare_text_embeddings
from gridclip.evaluation import read_results
from gridclip.evaluation.charts import read_metrics
from gridclip.evaluation.results import jsonable_config, nan_to_none
from gridclip.files import write_json
from gridclip.settings import load_config

from .environment import environment
from .sections import write_sections

CONFIG = Path(__file__).parents[1] / "configs/laptop/gridclip.py"
PRECISIONS = ("float32", "bfloat16", "float16")
METRICS = ("AP", "APr", "AP50")  # of the summary; a run has all
RUN = "run.json"


def run_config(base: DictConfig, folder: Path, precision: str, seed: int) -> DictConfig:
    """The config of one run, in ``folder``."""
    amp = ["train.amp.enabled=False"]
    if precision != "float32":
        amp = ["train.amp.enabled=True", f"train.amp.dtype={precision}"]
    return load_config(base, [f"train.seed={seed}", f"train.output_dir={folder}", *amp])


def shorten(cfg: DictConfig, steps: int) -> None:
    """Train for another number of steps, with as many of warm-up where that is less than all."""
    warmup = cfg.lr_multiplier.warmup_length * cfg.train.max_iter
    cfg.train.max_iter = steps
    cfg.lr_multiplier.warmup_length = min(warmup / steps, 0.5)


def finish(cfg: DictConfig) -> dict:
    """Train and evaluate, or read what was done; the outcome of the run.

    Raises:
        ValueError: the folder has a run of another config.
    """
    folder = Path(cfg.train.output_dir)
    path, config = folder / RUN, jsonable_config(cfg)
    record = {"config": config, "seconds": 0.0, "outcome": None}
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["config"] != config:
            raise ValueError(f"{folder} has a run of another config: give another --output.")
    if record["outcome"] is not None:
        return {**record["outcome"], "seconds": record["seconds"]}
    write_json(path, record)
    start = time.monotonic()
    record["outcome"] = _train(cfg)
    # Of the last start alone where the run was resumed.
    record["seconds"] = round(time.monotonic() - start, 1)
    write_json(path, record)
    return {**record["outcome"], "seconds": record["seconds"]}


def _train(cfg: DictConfig) -> dict:
    folder = cfg.train.output_dir
    for name in ("detectron2", "fvcore"):
        logging.getLogger(name).handlers.clear()  # those of the run before
        setup_logger(folder, name=name)
    before = environment(cfg.train.device)
    seed_all_rng(cfg.train.seed)
    try:
        do_train(cfg, resume=True)
        results = read_results(f"{folder}/results.json")
        metrics, diverged = nan_to_none(results["metrics"]["bbox"]), None
    except FloatingPointError as error:
        metrics, diverged = None, str(error)
    scalars = read_metrics(Path(folder, "metrics.json"))
    last = {name: list(values.values())[-1] for name, values in scalars.items() if values}
    return {
        "metrics": metrics,
        "diverged": diverged,
        "total_loss": last.get("total_loss"),
        "skipped_steps": int(last.get("skipped_steps", 0)),
        "overflows": int(last.get("overflows", 0)),
        "environment": before,
    }


def summarise(runs: Sequence[dict]) -> dict:
    """By precision and metric: "values" by seed, "mean", "std" (None of a single one), and by the
    same seeds the "difference" from float32, of the same form."""
    values = {
        (run["precision"], metric, run["seed"]): run["metrics"][metric]
        for run in runs
        if run["metrics"] is not None
        for metric in METRICS
        if run["metrics"].get(metric) is not None
    }
    summary: dict[str, dict] = {}
    for precision in dict.fromkeys(run["precision"] for run in runs):
        summary[precision] = {
            "diverged": sum(r["diverged"] is not None for r in _of(precision, runs))
        }
        for metric in METRICS:
            own = {s: v for (p, m, s), v in values.items() if (p, m) == (precision, metric)}
            pairs = {
                s: v - values["float32", metric, s]
                for s, v in own.items()
                if ("float32", metric, s) in values
            }
            summary[precision][metric] = _statistics(own) | {"difference": _statistics(pairs)}
    return summary


def _of(precision: str, runs: Sequence[dict]) -> list[dict]:
    return [run for run in runs if run["precision"] == precision]


def _statistics(values: dict[int, float]) -> dict:
    found = list(values.values())
    return {
        "values": {str(seed): value for seed, value in values.items()},
        "mean": mean(found) if found else None,
        "std": stdev(found) if len(found) > 1 else None,
    }


def table(record: dict) -> str:
    """For a terminal: means and standard deviations, and the differences from float32."""

    def cell(x: dict) -> str:
        if x["mean"] is None:
            return "–"
        return f"{x['mean']:.2f}" + ("" if x["std"] is None else f" ± {x['std']:.2f}")

    rows = [
        [
            precision,
            len(own["AP"]["values"]),
            *(cell(own[metric]) for metric in METRICS),
            *(cell(own[metric]["difference"]) for metric in METRICS[:2]),
            own["diverged"],
            sum(run["skipped_steps"] for run in _of(precision, record["runs"])),
            sum(run["overflows"] for run in _of(precision, record["runs"])),
        ]
        for precision, own in record["summary"].items()
    ]
    headers = ("precision", "runs", *METRICS, "AP - float32", "APr - float32")
    return tabulate(rows, (*headers, "diverged", "skipped steps", "overflows"))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    text = "gets the results as amp; what else it has stays"
    add("--json", type=Path, required=True, metavar="FILE", help=text)
    add("--config-file", default=str(CONFIG), metavar="C", help="default: the laptop world's")
    add("--steps", type=int, metavar="N", help="default: the config's")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    add("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS, metavar="P")
    add("--device", default="cpu", help="default: cpu")
    add("--output", type=Path, default=Path("output/amp"), metavar="DIR", help="of the runs")
    add("--override", nargs="+", default=[], metavar="KEY=VALUE", help="of the config")
    args = parser.parse_args(argv)
    if args.steps is not None and args.steps < 1:
        parser.error("--steps: at least 1")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    base = load_config(args.config_file, [f"train.device={args.device}", *args.override])
    if args.steps is not None:
        shorten(base, args.steps)
    # Before the first run: one that makes embeddings starts from other random numbers.
    data = open_data(base, "train")
    prepare_text_embeddings(base, data)
    prepare_embeddings(base, data)
    runs: list[dict] = []
    for seed in dict.fromkeys(args.seeds):
        for precision in dict.fromkeys(args.precisions):
            cfg = run_config(base, args.output / precision / f"seed{seed}", precision, seed)
            runs.append({"precision": precision, "seed": seed, **finish(cfg)})
            record = {
                "config_file": Path(args.config_file).name,
                "overrides": args.override,
                "steps": base.train.max_iter,
                "runs": runs,
                "summary": (summary := summarise(runs)),
            }
            record["AP"] = {name: own["AP"]["mean"] for name, own in summary.items()}
            write_sections(args.json, {"amp": record})
            print(f"\n{table(record)}\n", flush=True)
    print(args.json)


if __name__ == "__main__":
    main()
