"""Measure how a training starts, and how an evaluation ends, at LVIS's size.

    python -m benchmark.lab_lvis --json projects/GridCLIP/results/lab.json

Annotations and detections are random, in the proportions of LVIS; the files are made in a temporary
folder, of about 3 GB. Everything is measured in processes of its own, before and after. Memory is
that of one process above what it has after its imports: the peak of its resident set, and the
resident set in the end. --images and --val-images make it smaller.

**start**: what one rank does between its imports and the first batch, for LVIS train. "before" is
what this project did until it had a description of data sets: detectron2's loader reads the file
twice, once for the teacher's embeddings and once for the training, and its records, with polygons,
are kept in pickled form. "after" is the project now, without the teacher's pass.

**evaluation_tail**: what follows the last picture, for LVIS val and two processes, on rank 0:
gathering, writing, and LVIS's metrics by FastLVISEval. "before" is the way of detectron2's
LVISEvaluator, which this project had, too: a dictionary for each detection, all of them in a .pth
file, and a JSON file that is one string first. "after" is the project now. Two processes of the
former way need 10 GB of memory together.
"""

import argparse
import gc
import itertools
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.config import LazyConfig, instantiate
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    DatasetMapper,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.data.datasets import register_lvis_instances
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from lvis import LVIS
from PIL import Image
from tabulate import tabulate

from gridclip.data import open_dataset
from gridclip.distributed import leave_process_group
from gridclip.engine.prepare import open_data
from gridclip.evaluation import OpenVocabularyEvaluator
from gridclip.evaluation.detections import Detections
from gridclip.evaluation.fast_lvis_eval import FastLVISEval
from gridclip.files import write_json

from .environment import environment
from .lvis_evaluation import peak_kib
from .lvis_job import DETECTIONS, HEIGHT, WIDTH, random_detections, write_file
from .memory import resident_bytes
from .sections import write_sections

LVIS_TRAIN, LVIS_VAL = 100_170, 19_809  # images
RANKS = 2
DETECTION = np.dtype(
    [("image", np.int32), ("label", np.int32), ("box", np.float32, 4), ("score", np.float32)]
)
FIGURES = "seconds", "processor_seconds", "peak_mib", "resident_mib"
CONFIG = Path(__file__).parents[1] / "configs/lvis/gridclip_r50_ov_1x.py"


def start_before(file: Path, images: Path) -> Any:
    """The first batch by detectron2's records; returns what stays in memory."""
    name = "lvis_v1_measured"
    register_lvis_instances(name, {}, str(file), f"{images}/")
    DatasetCatalog.get(name)  # for the teacher's embeddings
    records = get_detection_dataset_dicts(name)
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, 0.001)
    sampler = iter(RepeatFactorTrainingSampler(factors, seed=0))
    augmentation = T.ResizeShortestEdge(640, 1333)
    mapper = DatasetMapper(is_train=True, augmentations=[augmentation], image_format="RGB")
    kept = DatasetFromList(records, copy=False)
    batch = [mapper(kept[i]) for i in itertools.islice(sampler, 16)]
    return kept, sampler, len(batch)


def start_after(file: Path, images: Path) -> Any:
    """The first batch by the project's own start; returns what stays in memory."""
    cfg = LazyConfig.load(str(CONFIG))
    cfg.data.train = {"_target_": open_dataset, "json": str(file), "images": str(images)}
    cfg.data.train["novel"] = "${data.novel}"
    cfg.dataloader.train.mapper.embeddings = None
    cfg.dataloader.train.num_workers = 0
    cfg.clip.names = None  # the categories have names of their own
    data = open_data(cfg, "train")
    weights = instantiate(cfg.model.federated_weights)
    loader = instantiate(cfg.dataloader.train)
    batch = next(iter(loader))
    return data, weights, loader, len(batch)


def measure_start(measured: Callable, file: Path, images: Path, record: Path) -> None:
    """In a process of its own: run it, and write seconds and memory to ``record``."""
    gc.collect()
    before, clock = resident_bytes(), Clock()
    kept = measured(file, images)
    seconds = clock.read()
    gc.collect()
    resident = resident_bytes() - before
    peak = peak_kib() * 1024 - before
    del kept
    memory = {"peak_mib": round(peak / 2**20), "resident_mib": round(resident / 2**20)}
    write_json(record, {**seconds, **memory})


class Clock:
    """Seconds since it was made, by the clock on the wall and of this process's processor."""

    def __init__(self):
        self._started = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        wall, processor = self._started
        now = time.perf_counter() - wall, time.process_time() - processor
        return {"seconds": round(now[0], 1), "processor_seconds": round(now[1], 1)}


class TailBefore:
    """Detections as dictionaries; see the module's docstring."""

    def __init__(self, file: Path, folder: Path):
        self.folder, self.ground_truth = folder, LVIS(str(file))
        self.predictions: list[dict] = []

    def process(self, image_id: int, instances: Instances) -> None:
        found = instances_to_coco_json(instances, image_id)
        self.predictions.append({"image_id": image_id, "instances": found})

    def evaluate(self) -> dict[str, float]:
        predictions = list(itertools.chain.from_iterable(comm.gather(self.predictions)))
        if not comm.is_main_process():
            return {}
        torch.save(predictions, self.folder / "instances_predictions.pth")
        results = [
            {**x, "category_id": x["category_id"] + 1} for p in predictions for x in p["instances"]
        ]
        write_json(self.folder / "lvis_instances_results.json", results)
        evaluation = FastLVISEval(self.ground_truth, Detections.from_results(results))
        evaluation.run()
        return {name: 100 * value for name, value in evaluation.results.items()}


class TailAfter:
    """The project's evaluator."""

    def __init__(self, file: Path, folder: Path):
        data = open_dataset(json=file, images=file.parent, novel="rare")
        self.evaluator = OpenVocabularyEvaluator(data, str(folder))

    def process(self, image_id: int, instances: Instances) -> None:
        self.evaluator.process([{"image_id": image_id}], [{"instances": instances}])

    def evaluate(self) -> dict[str, float]:
        return self.evaluator.evaluate().get("bbox", {})


def write_detections(file: Path, output: Path) -> None:
    """Write random detections of all images, 300 of each, as rows of ``DETECTION``."""
    ground_truth = LVIS(str(file))
    with open(output, "wb") as opened:
        for image_id in sorted(ground_truth.imgs):
            rng = np.random.default_rng(image_id)
            annotations = ground_truth.img_ann_map[image_id]
            negatives = ground_truth.imgs[image_id]["neg_category_ids"]
            labels, boxes, scores = random_detections(rng, annotations, negatives)
            rows = np.empty(len(scores), dtype=DETECTION)
            rows["image"], rows["label"], rows["box"], rows["score"] = (
                image_id,
                labels,
                boxes,
                scores,
            )
            rows[np.argsort(-scores, kind="stable")][:DETECTIONS].tofile(opened)


def read_outputs(detections: Path, images: int, rank: int) -> Iterator[tuple[int, Instances]]:
    """Image ids and a detector's outputs, of a rank's share of the images."""
    size = DETECTIONS * DETECTION.itemsize
    for index in range(images)[rank::RANKS]:
        rows = np.fromfile(detections, DETECTION, DETECTIONS, offset=index * size)
        corners = np.hstack([rows["box"][:, :2], rows["box"][:, :2] + rows["box"][:, 2:]])
        instances = Instances(
            (HEIGHT, WIDTH),
            pred_boxes=Boxes(torch.from_numpy(corners)),
            scores=torch.from_numpy(rows["score"].copy()),
            pred_classes=torch.from_numpy(rows["label"].astype(np.int64) - 1),
        )
        yield int(rows["image"][0]), instances


def measure_tail(
    measured: type, file: Path, images: int, folder: Path, rank: int, record: Path
) -> None:
    """In a process of its own: one rank of an evaluation. Rank 0 writes ``record``."""
    dist.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=RANKS)
    before = resident_bytes()
    tail = measured(file, folder)
    for output in read_outputs(file.with_name("detections"), images, rank):
        tail.process(*output)
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    clock = Clock()
    metrics = tail.evaluate()
    seconds = clock.read()
    if rank == 0:
        peak = round((peak_kib() * 1024 - before) / 2**20)
        write_json(record, {**seconds, "peak_mib": peak, "AP": metrics["AP"]})
    leave_process_group()


def run_processes(target: Callable, arguments: Sequence[tuple]) -> None:
    """Run a process for each of the arguments, at the same time. Raises SystemExit if one fails."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("A measurement failed: see above.")


def measure(images: int, val_images: int, parts: Sequence[str], seed: int = 0) -> dict:
    """The measurements by name; ``parts`` are "start" and "evaluation_tail"."""
    record: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = folder / "record.json"
        if "start" in parts:
            file, pictures = folder / "train.json", folder / "pictures"
            write_file(file, images, seed)
            draw_pictures(pictures, images)
            record["start"] = {"images": images, "file_mb": round(file.stat().st_size / 1e6)}
            for key, measured in (("before", start_before), ("after", start_after)):
                run_processes(measure_start, [(measured, file, pictures, written)])
                record["start"][key] = json.loads(written.read_text())
        if "evaluation_tail" in parts:
            file = folder / "val.json"
            write_file(file, val_images, seed + 1)
            run_processes(write_detections, [(file, folder / "detections")])
            tail = record["evaluation_tail"] = {"images": val_images, "ranks": RANKS}
            for key, measured in (("before", TailBefore), ("after", TailAfter)):
                output = folder / key
                output.mkdir()
                job = measured, file, val_images, output
                run_processes(measure_tail, [(*job, rank, written) for rank in range(RANKS)])
                tail[key] = json.loads(written.read_text())
    return record


def draw_pictures(folder: Path, count: int) -> None:
    """The files of the pictures: links to one grey picture."""
    (folder / "train2017").mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT), "grey").save(folder / "picture.jpg")
    for i in range(1, count + 1):
        os.symlink("../picture.jpg", folder / f"train2017/{i:012}.jpg")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    parts = ["start", "evaluation_tail"]
    add("--images", type=int, default=LVIS_TRAIN, help=f"of the start (default: {LVIS_TRAIN})")
    add("--val-images", type=int, default=LVIS_VAL, help=f"of the tail (default: {LVIS_VAL})")
    add("--only", choices=parts, help="measure one of the two")
    add("--json", type=Path, metavar="FILE", help="gets the measurements; what else it has stays")
    args = parser.parse_args(argv)
    record = measure(args.images, args.val_images, [args.only] if args.only else parts)
    rows = [
        [part, key, *(values[key].get(figure) for figure in FIGURES)]
        for part, values in record.items()
        for key in ("before", "after")
    ]
    print(tabulate(rows, ("part", "", *FIGURES), floatfmt=".1f"))
    if args.json:
        setup = environment("cpu")
        write_sections(args.json, {k: {**v, "setup": setup} for k, v in record.items()})


if __name__ == "__main__":
    main()
