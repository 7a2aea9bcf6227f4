"""Measure lvis-api's box evaluation beside ours, on the same random detections.

    python -m benchmark.lvis_evaluation --images 2000 --json FILE

The detections and annotations are random, in the proportions of LVIS val. LVIS val itself has
19,809 images, for which lvis-api takes about 19 GB of memory. --ours-only leaves lvis-api out.

Each evaluator runs in a process of its own. It starts from detections as dictionaries, the form in
which detectron2 holds them. The time is processor time, since both use one thread. The memory is
the peak of the resident set above its size before the evaluation.
"""

import argparse
import json
import multiprocessing
import re
import tempfile
import time
from pathlib import Path

import numpy as np
from lvis import LVIS, LVISEval, LVISResults
from tabulate import tabulate

from gridclip.evaluation.detections import Detections
from gridclip.evaluation.fast_lvis_eval import FastLVISEval
from gridclip.evaluation.results import git_commit, versions
from gridclip.files import write_json

from .lvis_job import CATEGORIES, DETECTIONS, make_dataset, make_results


def run_lvis_api(ground_truth: LVIS, results: list[dict]) -> LVISEval:
    np.float = float  # lvis-api 0.5.3 needs it and numpy removed it; this process ends soon
    evaluation = LVISEval(ground_truth, LVISResults(ground_truth, results), "bbox")
    evaluation.run()
    return evaluation


def run_ours(ground_truth: LVIS, results: list[dict]) -> LVISEval:
    evaluation = FastLVISEval(ground_truth, Detections.from_results(results))
    evaluation.run()
    return evaluation


def peak_kib() -> int:
    """The peak of this process's resident set.

    ``resource.getrusage`` would give that of the parent process, if it is larger.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+)", status)[1])


def measure_one(run, folder: Path, seed: int) -> None:
    """Evaluate detections for ``folder/annotations.json``; write time, memory and metrics there."""
    ground_truth = LVIS(str(folder / "annotations.json"))
    results = make_results(ground_truth, seed)
    before = peak_kib()
    start = time.process_time()
    evaluation = run(ground_truth, results)
    seconds = time.process_time() - start
    peak = peak_kib()
    np.save(folder / f"{run.__name__}.npy", evaluation.eval["precision"])
    record = {
        "seconds": seconds,
        "peak_mib": (peak - before) / 1024,
        "metrics": {name: float(value) for name, value in evaluation.results.items()},
    }
    write_json(folder / f"{run.__name__}.json", record)


def measure(num_images: int, seed: int = 0, ours_only: bool = False) -> dict:
    """Time and memory of both evaluators, and the largest differences of their figures.

    Args:
        num_images: images of the random job.
        ours_only: leave lvis-api out, and with it everything that compares.

    Raises:
        SystemExit: the process of an evaluator failed; it has printed why.
    """
    context = multiprocessing.get_context("spawn")
    runs = {"ours": run_ours} | ({} if ours_only else {"lvis_api": run_lvis_api})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = make_dataset(num_images, seed)
        write_json(folder / "annotations.json", dataset)
        record = {
            "images": num_images,
            "categories": CATEGORIES,
            "annotations": len(dataset["annotations"]),
            "detections_per_image": DETECTIONS,
            "seed": seed,
        }
        for key, run in runs.items():
            process = context.Process(target=measure_one, args=(run, folder, seed))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"The measurement of {key} failed: see above.")
            record[key] = json.loads((folder / f"{run.__name__}.json").read_text())
        if not ours_only:
            ours, api = record["ours"], record["lvis_api"]
            record["lvis_eval_api_over_ours"] = api["seconds"] / ours["seconds"]
            record["max_metric_difference"] = max(
                abs(ours["metrics"][metric] - value) for metric, value in api["metrics"].items()
            )
            precision = [np.load(folder / f"{run.__name__}.npy") for run in runs.values()]
            record["max_precision_difference"] = float(np.abs(np.subtract(*precision)).max())
    return record


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=int, default=2000, help="images of the random job (default: 2000)")
    add("--ours-only", action="store_true", help="leave lvis-api out")
    add("--seed", type=int, default=0)
    add("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    record = {
        **measure(args.images, args.seed, args.ours_only),
        "commit": git_commit(),
        "versions": versions(),
    }
    rows = [
        [name, *(record[name][field] for field in ("seconds", "peak_mib"))]
        for name in ("lvis_api", "ours")
        if name in record
    ]
    print(tabulate(rows, ("evaluator", "seconds", "peak, MiB"), floatfmt=".3g"))
    for name in ("lvis_eval_api_over_ours", "max_metric_difference", "max_precision_difference"):
        if name in record:
            print(f"{name}: {record[name]:.3g}")
    if args.json:
        write_json(args.json, record, indent=1)


if __name__ == "__main__":
    main()
