"""Measure a training step of GridCLIP R50 on one image: time of the image-level term, peak memory.

    python scripts/measure_training_step.py --json projects/GridCLIP/results/training_step_cpu.json

Time: a step without the image-level term, the term alone (forward, and backward to the features,
where the step's own backward takes over), and the teacher's pass that the store saves, in turn in
one process: the parts are too small to be told from the noise of whole steps.

Memory: GridCLIP beside detectron2's FCOS with as many closed-set classes on the same backbone and
towers, each in a process of its own. Two figures of the peak above what model and optimizer state
take: tensors, as torch.profiler counts them, and the resident set, which has allocator and
oneDNN's scratch memory in it. Weights, pixels and boxes are random.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import threading
import time
from pathlib import Path

import clip
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional as F
from tqdm import tqdm

from gridclip.clip_checkpoint import CLIP_RESNETS
from gridclip.data.teacher import encode_images
from gridclip.evaluation.results import git_commit, versions
from gridclip.files import write_json
from gridclip.text import TextEmbeddings

CONFIG = Path(__file__).parents[1] / "projects/GridCLIP/configs/lvis/gridclip_r50_ov_1x.py"
NUM_CLASSES = 1203


def build_gridclip(image_level: bool = True) -> torch.nn.Module:
    """The production config's model with random weights and text embeddings."""
    cfg = LazyConfig.load(str(CONFIG))
    table = F.normalize(torch.randn(NUM_CLASSES, cfg.model.classifier.embed_dim), dim=1)
    names = [f"category {i}" for i in range(NUM_CLASSES)]
    cfg.model.classifier.text_embeddings = TextEmbeddings(names, table, (), "RN50", "")
    if not image_level:
        cfg.model.image_alignment = None
    return instantiate(cfg.model).train()


def build_fcos() -> torch.nn.Module:
    """detectron2's FCOS on GridCLIP's backbone, with its towers and as many classes."""
    cfg = LazyConfig.load(str(CONFIG)).model
    backbone = instantiate(cfg.backbone)
    return FCOS(
        backbone=backbone,
        head=FCOSHead(
            input_shape=[backbone.output_shape()[name] for name in cfg.head_in_features],
            conv_dims=list(cfg.head.conv_dims),
            num_classes=NUM_CLASSES,
            norm="GN",
        ),
        head_in_features=list(cfg.head_in_features),
        num_classes=NUM_CLASSES,
        pixel_mean=list(cfg.pixel_mean),
        pixel_std=list(cfg.pixel_std),
    ).train()


def make_batch(height: int, width: int, embed_dim: int, boxes: int = 12) -> list[dict]:
    """One image of random pixels with LVIS's usual number of boxes."""
    instances = Instances((height, width))
    corners = torch.rand(boxes, 2) * torch.tensor([width, height]) * 0.6
    sizes = (0.05 + 0.35 * torch.rand(boxes, 2)) * torch.tensor([width, height])
    instances.gt_boxes = Boxes(torch.cat([corners, corners + sizes], dim=1))
    instances.gt_classes = torch.randint(0, NUM_CLASSES, (boxes,))
    return [
        {
            "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8),
            "instances": instances,
            "negative_classes": torch.randperm(NUM_CLASSES)[:10],
            "not_exhaustive_classes": torch.empty(0, dtype=torch.long),
            "image_embeddings": F.normalize(torch.randn(1, embed_dim), dim=1),
            "image_windows": torch.tensor([[0.0, 0.0, 1.0, 1.0]]),
        }
    ]


class Step:
    """One training step: forward, backward and the optimizer's."""

    def __init__(self, model: torch.nn.Module, batch: list[dict]):
        self.model, self.batch = model, batch
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-6)

    def __call__(self) -> None:
        with EventStorage():
            losses = self.model(self.batch)
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.optimizer.step()


class ImageLevelTerm:
    """The image-level loss of a model's own features, and its gradient with respect to them."""

    def __init__(self, model: torch.nn.Module, batch: list[dict]):
        self.model = model
        with torch.no_grad():
            images = model.preprocess_image(batch)
            features = model.backbone(images.tensor)
            levels = [features[name] for name in model.head_in_features]
            grid_features = torch.cat(model.head(levels)[0], dim=1)
            anchors = model.anchor_generator(levels)
        for feature in (*features.values(), grid_features):
            feature.requires_grad_()
        self.inputs = images, features, grid_features, anchors, batch

    def __call__(self) -> None:
        self.model.image_alignment_loss(*self.inputs).backward()


class TeacherPass:
    """What a step would have to do without the store: the image through CLIP's image encoder."""

    def __init__(self, batch: list[dict]):
        sizes = CLIP_RESNETS["RN50"]
        self.image = batch[0]["image"]
        self.teacher = clip.model.CLIP(
            sizes["embed_dim"], 224, sizes["layers"], sizes["width"], None, 77, 49408, 512, 8, 12
        ).eval()

    def __call__(self) -> None:
        image = self.image.float().div(255)[None]
        square = F.interpolate(image, (224, 224), mode="bicubic", antialias=True)
        encode_images(self.teacher, square)


def measure_time(height: int, width: int, runs: int) -> dict:
    """Seconds of each part, run in turn after one warm-up each, and the shares of a step."""
    batch = make_batch(height, width, CLIP_RESNETS["RN50"]["embed_dim"])
    parts = {
        "step": Step(build_gridclip(image_level=False), batch),
        "image_level_term": ImageLevelTerm(build_gridclip(), batch),
        "teacher_pass": TeacherPass(batch),
    }
    seconds = {name: [] for name in parts}
    with tqdm(total=len(parts) * (runs + 1), unit="part") as bar:
        for run in range(runs + 1):
            for name, part in parts.items():
                start = time.perf_counter()
                part()
                if run:
                    seconds[name].append(time.perf_counter() - start)
                bar.update()
    rounds = list(zip(*seconds.values(), strict=True))
    return {
        "seconds": seconds,
        "median_seconds": {name: statistics.median(values) for name, values in seconds.items()},
        # Round by round, so that a drift of the machine's speed cancels.
        "added_by_store": statistics.median(term / step for step, term, _ in rounds),
        "added_by_teacher_in_the_loop": statistics.median(
            (term + teacher) / step for step, term, teacher in rounds
        ),
    }


def resident_bytes() -> int:
    """The process's resident set."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_memory(name: str, height: int, width: int, queue) -> None:
    """Put the peaks in MiB of a step that is not the first: of the resident set and of tensors."""
    torch.manual_seed(0)
    model = build_fcos() if name == "fcos" else build_gridclip()
    step = Step(model, make_batch(height, width, CLIP_RESNETS["RN50"]["embed_dim"]))
    step()  # makes the optimizer's state, which stays
    step.optimizer.zero_grad()
    ctypes.CDLL(None).malloc_trim(0)  # what the first step freed goes back to the system
    resident = peak_resident(step)
    step.optimizer.zero_grad()
    queue.put({"resident_set": resident / 2**20, "tensors": peak_tensors(step) / 2**20})


def peak_resident(step: Step) -> int:
    """Bytes by which the resident set grows during a step, at most."""
    before, peak, done = resident_bytes(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    step()
    done.set()
    watcher.join()
    return peak - before


def peak_tensors(step: Step) -> int:
    """Bytes of tensors made during a step and alive at once, at most."""
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    return max(e["args"]["Total Allocated"] for e in events if e.get("name") == "[memory]")


def measure_memory(height: int, width: int) -> dict:
    """Peaks of a step by detector, and GridCLIP's over FCOS's."""
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for name in ("gridclip", "fcos"):
        queue = context.SimpleQueue()
        process = context.Process(target=peak_memory, args=(name, height, width, queue))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"The measurement of {name} failed: see above.")
        peaks[name] = queue.get()
    ratios = {key: value / peaks["fcos"][key] for key, value in peaks["gridclip"].items()}
    return {"peak_mib": peaks, "gridclip_over_fcos": ratios}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"))
    parser.add_argument("--runs", type=int, default=5, help="counted steps of each variant")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    record = {
        "size": list(args.size),
        "images": 1,
        "classes": NUM_CLASSES,
        "runs": args.runs,
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "weights": "random",
        "memory": measure_memory(*args.size),
        "time": measure_time(*args.size, args.runs),
        "commit": git_commit(),
        "versions": versions(),
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.json, record, indent=2)
    print(json.dumps({k: v for k, v in record.items() if k in ("memory", "time")}, indent=2))


if __name__ == "__main__":
    main()
