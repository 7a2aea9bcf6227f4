#!/usr/bin/env python
"""Novel categories by words, by examples, and by both: accuracy of the same detectors.

    python -m laptop_world.examples \\
        --detectors output/reproduce/test/gridclip/seed{seed}/model_final.pth

Each novel category is looked for by its word, by 1 and by 5 examples, boxes in pictures that are in
no split of the world, and by both. Base categories keep their words. The examples of a seed are
other ones than those of the next. How examples are embedded was chosen with --world dev. With the
test world the result is projects/GridCLIP/results/examples.json.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from gridclip.clip_weights import clip_file
from gridclip.engine.score_sweep import sweep_vocabularies
from gridclip.engine.train import build_model, load_weights
from gridclip.evaluation.results import git_commit, processor_name, versions
from gridclip.files import sha256_of_file, write_json
from gridclip.queries import Example, Query, QueryEncoder
from gridclip.settings import load_config
from gridclip.text import TextEmbeddings
from laptop_world.experiment import PROJECT, ROOT, config_file
from laptop_world.shapes import build_scene, load_world, render
from laptop_world.shapes.dataset import item_box
from laptop_world.summary import AXIS_PREFIX, statistics_of_seeds

SEEDS, COUNTS = (0, 1, 2, 3, 4), (1, 5)
_FIRST_SEED = 1001  # that of the worlds is 0, those of fine-tuning begin at 1
_SIZE = 128
_LEAST_SIDE = 8  # pixels; nobody gives a smaller example


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--detectors", required=True, metavar="FILE", help="weights; {seed} stands for the seed")
    add("--world", default="test", choices=("dev", "test"))
    add("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="N")
    add("--output", type=Path, metavar="FILE", help="default: the repository's file of results")
    args = parser.parse_args(argv)
    if args.output is None:
        if args.world != "test":
            parser.error("--output: results are of the test world")
        args.output = PROJECT / "results/examples.json"
    return args


def draw_examples(world: str, seed: int, count: int) -> dict[int, list[Example]]:
    """By contiguous id of a novel category, ``count`` objects in drawn pictures: RGB arrays, and
    boxes XYXY in pixels. Those of a smaller count are the first of them."""
    axes = load_world(world).axes
    found: dict[int, list[Example]] = {i: [] for i, axis in enumerate(axes) if axis is not None}
    scenes = (build_scene(world, "val", i, _FIRST_SEED + seed) for i in itertools.count())
    while any(len(examples) < count for examples in found.values()):
        scene = next(scenes)
        wanted = [i for i in scene.items if len(found.get(i.category_id, [()] * count)) < count]
        picture = render(scene, _SIZE) if wanted else None
        for item in wanted:
            box = item_box(item, _SIZE)
            own = found[item.category_id]
            if min(box[2] - box[0], box[3] - box[1]) >= _LEAST_SIDE and len(own) < count:
                own.append((picture, box))
    return found


def queries(names: Sequence[str], examples: dict[int, list[Example]]) -> Iterator[tuple[str, dict]]:
    """By what novel categories are looked for, and the query of each name."""
    yield "word", {name: name for name in names}
    for count in COUNTS:
        for with_word in (False, True):
            by_name: dict[str, Query] = {name: name for name in names}
            for i, own in examples.items():
                by_name[names[i]] = [*([names[i]] if with_word else []), *own[:count]]
            yield f"{count} example{'s' * (count > 1)}" + " and word" * with_word, by_name


def measure(cfg: DictConfig, seed: int) -> dict[str, dict[str, float]]:
    """By query the metrics of one detector, in percent."""
    model = load_weights(cfg, build_model(cfg), cfg.train.init_checkpoint).eval()
    names = model.classifier.names
    encoder = QueryEncoder(cfg.clip.weights, cfg.clip.templates, cfg.train.device)
    examples = draw_examples(cfg.shapes.world, seed, max(COUNTS))
    kinds = dict(queries(names, examples))
    vocabularies: list[TextEmbeddings] = [encoder.embed(kind) for kind in kinds.values()]
    return dict(zip(kinds, sweep_vocabularies(cfg, model, vocabularies), strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    found, detectors = [], {}
    try:
        for seed in tqdm(args.seeds, "Detectors", unit="detector"):
            weights = args.detectors.format(seed=seed)
            detectors[str(seed)] = sha256_of_file(clip_file(weights))
            settings = {
                "shapes.world": args.world,
                "train.init_checkpoint": weights,
                "dataloader.evaluator.output_dir": "null",
            }
            cfg = load_config(config_file("gridclip"), [f"{k}={v}" for k, v in settings.items()])
            found.append(measure(cfg, seed))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
    names = [name for name in found[0]["word"] if name in ("AP", "APr", "APf")]
    names += sorted(name for name in found[0]["word"] if name.startswith(AXIS_PREFIX))
    report = {
        "seeds": args.seeds,
        "queries": {
            kind: {name: statistics_of_seeds([f[kind][name] for f in found]) for name in names}
            for kind in found[0]
        },
        "detectors_sha256": detectors,
        "commit": git_commit(),
        "versions": versions(),
        "processor": processor_name("cpu"),
        "config_file": str(config_file("gridclip").relative_to(ROOT)),
    }
    write_json(args.output, report, indent=1)
    for kind, metrics in report["queries"].items():
        print(f"{kind:24}" + "  ".join(f"{name} {metrics[name]['mean']:.1f}" for name in names))


if __name__ == "__main__":
    main()
