#!/usr/bin/env python
"""Measure lvis-api's box evaluation beside ours, on the same random detections.

    python -m benchmark.lvis_evaluation --images 2000 --json FILE

The job has LVIS val's proportions: 1203 categories, 12.4 boxes of 3.4 categories in an image, ten
categories that are known to be absent, 300 detections an image. LVIS val itself has 19,809 images,
for which lvis-api would take some 19 GB of memory: --ours-only leaves it out.

Each evaluator runs in a process of its own and starts from the detections as dictionaries, as
detectron2 holds them. Its time is that of the processor, since both take one thread; its memory is
the peak of the resident set above what it starts from.
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

DETECTIONS = 300
FREQUENCIES = {"f": 405, "c": 461, "r": 337}  # LVIS v1's categories
CATEGORIES = sum(FREQUENCIES.values())
HEIGHT, WIDTH = 480, 640


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) XYWH in pixels, with sides from 8 to 400 pixels, log-uniform."""
    sides = 8 * 50 ** rng.random((count, 2))
    corners = rng.random((count, 2)) * [WIDTH, HEIGHT]
    return np.hstack([corners, sides]).round(2)


def make_dataset(num_images: int, seed: int) -> dict:
    """LVIS-format annotations; the frequency of the categories follows Zipf's law."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, CATEGORIES + 1)
    images, annotations = [], []
    for image_id in range(1, num_images + 1):
        positive = rng.choice(
            CATEGORIES, 1 + rng.poisson(2.4), replace=False, p=share / share.sum()
        )
        negative = np.setdiff1d(rng.choice(CATEGORIES, 10, replace=False), positive)
        # Of each category at least one.
        labels = np.concatenate([positive, rng.choice(positive, rng.poisson(8.95))]) + 1
        boxes = random_boxes(rng, len(labels))
        annotations += [
            {
                "id": len(annotations) + i + 1,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": box,
                "area": 0.7 * box[2] * box[3],
            }
            for i, (category_id, box) in enumerate(
                zip(labels.tolist(), boxes.tolist(), strict=True)
            )
        ]
        images.append(
            {
                "id": image_id,
                "height": HEIGHT,
                "width": WIDTH,
                "neg_category_ids": (negative + 1).tolist(),
                "not_exhaustive_category_ids": (positive[:1] + 1).tolist()
                if rng.random() < 0.16
                else [],
            }
        )
    frequencies = "".join(name * count for name, count in FREQUENCIES.items())
    categories = [
        {"id": i, "name": f"category {i}", "frequency": frequency}
        for i, frequency in enumerate(frequencies, 1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def make_results(ground_truth: LVIS, seed: int) -> list[dict]:
    """Three shifted boxes for each annotation; of the rest, half of a category in the image's lists
    and half of any. Scores are multiples of 2**-16, so that some are equal."""
    rng = np.random.default_rng(seed + 1)
    results = []
    for image in ground_truth.imgs.values():
        annotations = ground_truth.img_ann_map[image["id"]]
        positive = np.array([a["category_id"] for a in annotations])
        near = np.repeat([a["bbox"] for a in annotations], 3, axis=0)
        near += rng.normal(0, 0.1, near.shape) * near[:, [2, 3, 2, 3]]
        far = random_boxes(rng, max(0, DETECTIONS - len(near)))
        listed = rng.choice([*positive, *image["neg_category_ids"]], len(far))
        anywhere = rng.integers(1, CATEGORIES + 1, len(far))
        labels = np.concatenate(
            [np.repeat(positive, 3), np.where(rng.random(len(far)) < 0.5, listed, anywhere)]
        )
        boxes = np.concatenate([near, far])
        scores = rng.integers(1, 2**16, len(boxes)) / 2**16
        results += [
            {"image_id": image["id"], "category_id": label, "bbox": box, "score": score}
            for label, box, score in zip(
                labels.tolist(), boxes.tolist(), scores.tolist(), strict=True
            )
        ]
    return results


def run_lvis_api(ground_truth: LVIS, results: list[dict]) -> LVISEval:
    np.float = float  # which numpy removed and lvis-api 0.5.3 needs; this process ends soon
    evaluation = LVISEval(ground_truth, LVISResults(ground_truth, results), "bbox")
    evaluation.run()
    return evaluation


def run_ours(ground_truth: LVIS, results: list[dict]) -> LVISEval:
    evaluation = FastLVISEval(ground_truth, Detections.from_results(results))
    evaluation.run()
    return evaluation


def peak_kib() -> int:
    """Of this process's resident set. Its ru_maxrss would be that of the process that made it, if
    larger."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+)", status)[1])


def measure_one(run, folder: Path, seed: int) -> None:
    """In ``folder``: evaluate the detections made from annotations.json; write what came out."""
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
    """Time and memory of both, and how far apart their figures are.

    Returns:
        "lvis_eval_api_over_ours" is the ratio of the times; without lvis-api, "ours" alone.
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
    add("--images", type=int, default=2000, help="of the synthetic job (default: 2000)")
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
