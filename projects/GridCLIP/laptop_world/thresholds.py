#!/usr/bin/env python
"""Which score threshold is best, by the number of names that are asked for at once.

    python -m laptop_world.thresholds --weights output/reproduce/test/gridclip/seed0/model_final.pth

The pictures are drawn anew, with every object annotated, and no report uses them. The world's names
are asked for in groups of 1, 2, 10, 34 and 130, so that every size asks for every name in every
picture once. "competing" is the detector as it is: names of the training vocabulary that are not
asked for take part in the softmax of the dense scores. "alone" leaves them out.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from gridclip.evaluation.matching import find_candidates, match_greedily
from gridclip.evaluation.results import git_commit, processor_name, versions
from gridclip.files import sha256_of_file, write_json
from gridclip.prediction import Prediction
from gridclip.predictor import Predictor
from laptop_world.experiment import PROJECT
from laptop_world.shapes.dataset import item_box
from laptop_world.shapes.drawing import render
from laptop_world.shapes.scenes import Scene, build_scene
from laptop_world.shapes.vocabulary import load_world

CONFIG = "projects/GridCLIP/configs/laptop/gridclip.py"
NAMES_ASKED = (1, 2, 10, 34, 130)
SEED, SIZE, IOU = 1, 128, 0.5  # the published world's seed is 0
LEAST_SCORE = 0.02  # far below every best threshold
DEFAULT = 0.3  # of demo.py and Predictor.draw


class Memo:
    """In place of a module's forward pass: computed once a picture, as no vocabulary changes it."""

    def __init__(self, module: nn.Module):
        self.forward, self.outputs, self.picture = module.forward, {}, 0
        module.forward = self

    def __call__(self, *args, **kwargs):
        if self.picture not in self.outputs:
            self.outputs[self.picture] = self.forward(*args, **kwargs)
        return self.outputs[self.picture]


def boxes_of(scene: Scene) -> tuple[NDArray, NDArray]:
    """The names' indices, (G,), and boxes, (G, 4) XYWH in pixels, of all objects of a scene."""
    items = [item for item in scene.items if item.category_id is not None]
    boxes = np.array([item_box(item, SIZE) for item in items]).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return np.array([item.category_id for item in items]), boxes


def detect(
    predictor: Predictor,
    memos: Sequence[Memo],
    pictures: Sequence[NDArray],
    asked: int,
    competing: bool,
) -> Iterator[tuple[int, Prediction]]:
    """Ask for all names of the training vocabulary in groups; yields each picture's index with what
    a group found in it."""
    names = predictor.model.classifier.training_vocabulary.names
    groups = [names[i : i + asked] for i in range(0, len(names), asked)]
    for group in tqdm(groups, f"{asked} names, competing: {competing}", unit="vocabulary"):
        predictor.set_vocabulary(group)
        if not competing:
            classifier = predictor.model.classifier
            classifier.competitors = classifier.competitors[:0]
        for i, picture in enumerate(pictures):
            for memo in memos:
                memo.picture = i
            yield i, predictor(picture, threshold=LEAST_SCORE)


class Matched(NamedTuple):
    """All detections of a pass, D of them.

    Attributes:
        classes: (D,) int, the names' indices.
        scores: (D,) float.
        right: (D,) bool, whether each found an object of its name.
    """

    classes: NDArray
    scores: NDArray
    right: NDArray


def match(
    found: Sequence[tuple[int, Prediction]],
    truth: Sequence[tuple[NDArray, NDArray]],
    names: Sequence[str],
) -> Matched:
    index = {name: i for i, name in enumerate(names)}
    images = np.concatenate([np.full(len(p), i) for i, p in found])
    classes = np.array([index[name] for _, p in found for name in p.names], int)
    scores = np.concatenate([p.scores.numpy() for _, p in found]).astype(float)
    boxes = np.concatenate([p.pred_boxes.tensor.numpy() for _, p in found]).astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    true_images = np.concatenate([np.full(len(c), i) for i, (c, _) in enumerate(truth)])
    true_classes, true_boxes = (np.concatenate(part) for part in zip(*truth, strict=True))
    right = np.zeros(len(scores), bool)
    for c in range(len(names)):
        own = np.flatnonzero(classes == c)
        own = own[np.argsort(-scores[own], kind="stable")]
        gt = true_classes == c
        candidates = find_candidates(boxes[own], images[own], true_boxes[gt], true_images[gt], IOU)
        ignored = np.zeros((gt.sum(), 1), bool)
        right[own] = match_greedily(candidates, ignored, np.array([IOU]), len(own))[:, 0, 0] >= 0
    return Matched(classes, scores, right)


def best_threshold(scores: NDArray, right: NDArray, objects: int) -> dict[str, float]:
    """The threshold with the highest F1 = 2 TP / (detections + objects), that F1, and the F1 of
    the default threshold."""
    order = np.argsort(-scores, kind="stable")
    f1 = 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + objects)
    best = int(f1.argmax())
    above = scores >= DEFAULT
    default = 2 * right[above].sum() / (above.sum() + objects)
    return {
        "threshold": round(float(scores[order[best]]), 3),
        "f1": round(float(f1[best]), 3),
        "f1_at_default": round(float(default), 3),
    }


def by_novelty(matched: Matched, true_classes: NDArray) -> dict[str, dict[str, float]]:
    """What :func:`best_threshold` says of "base" and of "novel" names."""
    novel = np.array([axis is not None for axis in load_world("test").axes])
    rows = {}
    for name, kind in (("base", ~novel), ("novel", novel)):
        own = kind[matched.classes]
        objects = int(kind[true_classes].sum())
        rows[name] = best_threshold(matched.scores[own], matched.right[own], objects)
    return rows


def measure(weights: str, pictures: int) -> dict:
    """The record: "best" by "competing" or "alone" and the number of names, and by "novelty"."""
    scenes = [build_scene("test", "val", i, SEED) for i in range(pictures)]
    truth = [boxes_of(scene) for scene in scenes]
    drawn = [render(scene, SIZE) for scene in scenes]
    predictor = Predictor(CONFIG, weights, device="cpu")
    memos = [Memo(getattr(predictor.model, name)) for name in ("backbone", "head")]
    names, true_classes = predictor.names, np.concatenate([classes for classes, _ in truth])
    best: dict = {}
    for kind in ("competing", "alone"):
        for asked in NAMES_ASKED:
            found = list(detect(predictor, memos, drawn, asked, kind == "competing"))
            matched = match(found, truth, names)
            row = best_threshold(matched.scores, matched.right, len(true_classes))
            best.setdefault(kind, {})[str(asked)] = row
            if kind == "competing" and asked == len(names):
                best["novelty"] = by_novelty(matched, true_classes)
    return {
        "best": best,
        "default_threshold": DEFAULT,
        "iou": IOU,
        "pictures": {"world": "test", "seed": SEED, "count": pictures},
        "objects": len(true_classes),
        "config": CONFIG,
        "detector_sha256": sha256_of_file(weights),
        "processor": processor_name("cpu"),
        "commit": git_commit(),
        "versions": versions(),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", required=True, metavar="FILE", help="of a detector of the test world")
    add("--pictures", type=int, default=200, metavar="N", help="default: 200")
    add(
        "--json",
        type=Path,
        default=PROJECT / "results/thresholds.json",
        metavar="FILE",
        help="where the result goes (default: results/thresholds.json)",
    )
    args = parser.parse_args(argv)
    try:
        record = measure(args.weights, args.pictures)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    write_json(args.json, record, indent=1)
    print(args.json)


if __name__ == "__main__":
    main()
