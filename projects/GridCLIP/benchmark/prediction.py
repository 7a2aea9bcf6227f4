"""Measure the predictor: memory over many pictures, speed by batch size, what padding changes.

    python -m benchmark.prediction --config-file CONFIG.py --weights FILE.pth \\
        --images datasets/shapes/shapes_test_val --json projects/GridCLIP/results/predictor.json

Memory is the resident set while ``Predictor.stream`` goes through the pictures, again and again.
Of the speeds, batch sizes take turns. The predictor's batches have pictures of one size; what the
network would say of smaller pictures that are padded to a larger one is measured on pictures of
mixed shapes, cut from those of the folder. A detection in a batch is that of a picture alone if it
has the same name and an IoU of at least 0.5.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from detectron2.structures import pairwise_iou
from tabulate import tabulate
from tqdm import tqdm

from gridclip.clip_weights import clip_file
from gridclip.files import sha256_of_file, write_json
from gridclip.pictures import find_pictures, read_picture
from gridclip.prediction import Names, Prediction
from gridclip.predictor import Predictor

from .environment import environment
from .memory import resident_bytes

Detect = Callable[[Predictor, Sequence[np.ndarray], int], list[Prediction]]

BATCH_SIZES = (1, 4, 8)
CHECKPOINTS = (100, 500, 1000, 2000)


def measure_memory(
    predictor: Predictor, pictures: Sequence[Path], checkpoints: Sequence[int]
) -> dict[str, float]:
    """The resident set in MiB after so many pictures, with the default batch size."""
    stream = predictor.stream(islice(cycle(pictures), max(checkpoints)))
    found = {}
    for count, _ in enumerate(tqdm(stream, "memory", max(checkpoints), unit="picture"), 1):
        if count in checkpoints:
            found[str(count)] = round(resident_bytes() / 2**20, 1)
    return found


def measure_speed(
    predictor: Predictor, pictures: Sequence[Path], runs: int
) -> dict[str, dict[str, float | list[float]]]:
    """Pictures a second by batch size, files read: the median, and each run."""
    rates: dict[int, list[float]] = {size: [] for size in BATCH_SIZES}
    list(predictor.stream(pictures[: max(BATCH_SIZES)], batch_size=max(BATCH_SIZES)))  # warm-up
    for _ in tqdm(range(runs), "speed", unit="run"):
        for size, measured in rates.items():
            start = time.perf_counter()
            list(predictor.stream(pictures, batch_size=size))
            measured.append(len(pictures) / (time.perf_counter() - start))
    return {
        str(size): {"pictures_per_second": statistics.median(measured), "runs": measured}
        for size, measured in rates.items()
    }


def mixed_shapes(pictures: Sequence[Path], seed: int) -> Iterator[np.ndarray]:
    """A part of each picture, with sides of half of it to all of it."""
    rng = np.random.default_rng(seed)
    for picture in pictures:
        pixels = read_picture(picture)
        height, width = (int(side * rng.uniform(0.5, 1)) for side in pixels.shape[:2])
        yield np.ascontiguousarray(pixels[:height, :width])


def difference(alone: Sequence[Prediction], batched: Sequence[Prediction], least: float) -> dict:
    """How the detections with a score of at least ``least`` differ.

    Returns:
        "detections" of the pictures alone; "missing" and "new" in the batches, of which no
        detection of any score in the other is the same; and of those that are the same the
        median and the largest difference of scores, and of boxes' sides in pixels the largest.
    """
    scores: list[float] = []
    side, missing, new = 0.0, 0, 0
    for one, other in zip(alone, batched, strict=True):
        overlaps = pairwise_iou(one.pred_boxes, other.pred_boxes)
        overlaps[one.pred_classes[:, None] != other.pred_classes[None]] = 0
        if not len(one) or not len(other):
            missing += int((one.scores >= least).sum())
            new += int((other.scores >= least).sum())
            continue
        best, index = overlaps.max(dim=1)
        wanted = one.scores >= least
        same = wanted & (best >= 0.5)
        missing += int((wanted & ~same).sum())
        new += int(((other.scores >= least) & (overlaps.max(dim=0).values < 0.5)).sum())
        if same.any():
            matched = other[index[same]]
            scores += (one.scores[same] - matched.scores).abs().tolist()
            moved = one.pred_boxes.tensor[same] - matched.pred_boxes.tensor
            side = max(side, moved.abs().max().item())
    return {
        "detections": int(sum((one.scores >= least).sum() for one in alone)),
        "missing": missing,
        "new": new,
        "median_score_difference": statistics.median(scores or [0.0]),
        "largest_score_difference": max(scores, default=0.0),
        "largest_box_difference": side,
    }


def in_batches(
    predictor: Predictor, pictures: Sequence[np.ndarray], batch_size: int
) -> list[Prediction]:
    # Each picture twice, so that there are neighbours of one size.
    doubled = [picture for picture in pictures for _ in range(2)]
    return list(predictor.stream(doubled, batch_size=batch_size))[::2]


def padded(
    predictor: Predictor, pictures: Sequence[np.ndarray], batch_size: int
) -> list[Prediction]:
    """What the network finds where all pictures of a batch are padded to its largest."""
    found = []
    for start in range(0, len(pictures), batch_size):
        inputs = [predictor.prepare(picture) for picture in pictures[start : start + batch_size]]
        for output in predictor.model(inputs):
            instances = output["instances"].to("cpu")
            names = Names(predictor.names)
            fields = instances.get_fields()
            found.append(Prediction(instances.image_size, vocabulary=names, **fields))
    return found


def measure_batches(
    predictor: Predictor, pictures: Sequence[np.ndarray], detect: Detect
) -> dict[str, dict[str, dict]]:
    """By batch size and by least score, the :func:`difference` of ``detect`` to one at a time."""
    alone = list(predictor.stream(pictures, batch_size=1))
    return {
        str(size): {
            str(least): difference(alone, detect(predictor, pictures, size), least)
            for least in (0.0, 0.3)
        }
        for size in BATCH_SIZES[1:]
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="CONFIG.py", help="that of the training")
    add("--weights", required=True, metavar="FILE", help="the trained detector's")
    add("--images", required=True, metavar="DIR", help="a folder of pictures")
    add("--opts", nargs="+", default=[], metavar="key=value", help="overrides of the config")
    add("--pictures", type=int, default=64, metavar="N", help="for speed and padding (64)")
    add("--runs", type=int, default=5, metavar="N", help="of each batch size (5)")
    add(
        "--checkpoints",
        type=int,
        nargs="+",
        default=CHECKPOINTS,
        metavar="N",
        help="pictures after which memory is read (100 500 1000 2000)",
    )
    add("--json", type=Path, metavar="FILE", help="is written")
    args = parser.parse_args(argv)

    predictor = Predictor(args.config_file, args.weights, overrides=args.opts)
    pictures = find_pictures([args.images])
    few = pictures[: args.pictures]
    mixed = list(mixed_shapes(few, seed=0))
    start = environment(predictor.cfg.train.device)
    record = {
        "weights_sha256": sha256_of_file(clip_file(args.weights)),
        "names": len(predictor.names),
        "pictures": len(pictures),
        "size": list(read_picture(pictures[0]).shape[:2]),
        # First: the others would leave memory behind.
        "resident_mib": measure_memory(predictor, pictures, args.checkpoints),
        "speed": {"pictures": len(few), "batch": measure_speed(predictor, few, args.runs)},
        "batches": measure_batches(predictor, mixed, in_batches),
        "padded_batches": measure_batches(predictor, mixed, padded),
        **start,
        "load_average_at_end": environment(predictor.cfg.train.device)["load_average"],
    }
    print(tabulate(record["resident_mib"].items(), ("pictures", "MiB")), end="\n\n")
    rates = [(s, b["pictures_per_second"]) for s, b in record["speed"]["batch"].items()]
    print(tabulate(rates, ("batch", "pictures a second"), floatfmt=".2f"), end="\n\n")
    rows = [
        (kind, size, least, *values.values())
        for kind in ("batches", "padded_batches")
        for size, by_score in record[kind].items()
        for least, values in by_score.items()
    ]
    headers = ("shapes", "batch", "score from", "detections", "missing", "new")
    headers += ("median of scores", "largest", "of boxes, px")
    print(tabulate(rows, headers, floatfmt=".2g"))
    if args.json:
        write_json(args.json, record, indent=1)


if __name__ == "__main__":
    main()
