"""Measure what the frozen teacher costs before training.

    python -m benchmark.teacher_passes --json FILE

GridCLIP needs embeddings of whole pictures or of tiles, ViLD of 300 regions a picture. Each is a
pass. The passes take turns; each prepares its inputs from a picture in memory and embeds them, as
the precomputing scripts do. Its time and its size on disk are extrapolated to LVIS train.

The picture, the boxes and the weights are random, because time does not depend on them. Boxes have
the sizes of proposals: the square root of the area is log-uniform.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from gridclip.clip_weights import load_clip
from gridclip.data.regions import normalised, region_inputs, window_crops, windows
from gridclip.data.teacher import encode_images, encode_regions
from gridclip.evaluation.results import git_commit, versions
from gridclip.files import write_json

from . import random_clip  # noqa: F401  random-clip://
from .cost import LVIS_TRAIN_IMAGES
from .inputs import REGIONS

HEIGHT, WIDTH = 480, 640
REGION_BATCH = 64  # of two crops each, as scripts/precompute.py does by default
FLOAT16, BOX = 2, 4 * 4  # sizes in bytes


def random_boxes(count: int) -> Tensor:
    """(count, 4) XYXY in pixels; sqrt(area) is 16 to 400, width / height is 1/2 to 2.

    Boxes end at the edge of the picture.
    """
    side = 16 * 25 ** torch.rand(count)
    stretch = 2 ** (torch.rand(count) - 0.5)
    size = torch.stack([side * stretch, side / stretch], dim=1)
    extent = torch.tensor([WIDTH, HEIGHT])
    centre = torch.rand(count, 2) * extent
    low = (centre - size / 2).clamp(min=0).minimum(extent - 1)
    return torch.cat([low, (centre + size / 2).minimum(extent)], dim=1)


def build_passes(model, regions: int) -> dict[str, tuple[int, Callable[[], None]]]:
    """By name, the number of vectors of a picture and a function that makes them."""
    device, resolution = model.visual.conv1.weight.device, model.visual.input_resolution
    picture = torch.randint(0, 256, (HEIGHT, WIDTH, 3), dtype=torch.uint8)
    boxes = random_boxes(regions)

    def images(window_set: str):
        variants = (picture.numpy(), picture.flip(1).contiguous().numpy())
        crops = np.concatenate([window_crops(v, windows(window_set), resolution) for v in variants])
        encode_images(model, normalised(torch.tensor(crops, device=device))).cpu()

    def region_pass():
        image = picture.permute(2, 0, 1).to(device)
        for part in boxes.split(REGION_BATCH):
            encode_regions(model, region_inputs(image, part, resolution)).cpu()

    vectors = {name: 2 * len(windows(name)) for name in ("whole", "tiles9")}  # with mirror images
    passes = {name: (count, lambda n=name: images(n)) for name, count in vectors.items()}
    return passes | {"regions": (regions, region_pass)}


def measure(clip_source: str, device: str, runs: int, regions: int) -> dict:
    """The median seconds of each pass over one picture, and what follows for LVIS train.

    Args:
        clip_source: the teacher, as ``load_clip`` takes it.
        runs: counted runs of each pass.
        regions: of the picture, for ViLD's pass.
    """
    model, checkpoint = load_clip(clip_source, device)
    passes = build_passes(model, regions)
    passes["whole"][1]()  # warm-up
    seconds = {name: [] for name in passes}
    for _ in tqdm(range(runs), unit="run"):
        for name, (_, run) in passes.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    dim = model.visual.output_dim
    record = {}
    for name, (count, _) in passes.items():
        median = statistics.median(seconds[name])
        size = count * (dim * FLOAT16 + (BOX if name == "regions" else 0))
        record[name] = {
            "vectors": count,
            "seconds": median,
            "bytes": size,
            "lvis_train_hours": median * LVIS_TRAIN_IMAGES / 3600,
            "lvis_train_gb": size * LVIS_TRAIN_IMAGES / 1e9,
        }
    return {"clip": checkpoint.model_id, "dim": dim, "per_image": record}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--clip", default="random-clip://RN50", help="the teacher (default: random RN50)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--runs", type=int, default=3, help="runs of each pass (default: 3); the median counts")
    add("--regions", type=int, default=REGIONS, help="regions of a picture (default: 300)")
    add("--seed", type=int, default=0)
    add("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    record = {
        **measure(args.clip, args.device, args.runs, args.regions),
        "picture": [HEIGHT, WIDTH],
        "runs": args.runs,
        "seed": args.seed,
        "device": args.device,
        "threads": torch.get_num_threads(),
        "commit": git_commit(),
        "versions": versions(),
    }
    rows = [[name, *values.values()] for name, values in record["per_image"].items()]
    headers = ("pass", "vectors", "s an image", "bytes an image", "LVIS train, h", "LVIS train, GB")
    print(tabulate(rows, headers, floatfmt=".3g"))
    if args.json:
        write_json(args.json, record, indent=1)


if __name__ == "__main__":
    main()
