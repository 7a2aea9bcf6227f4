#!/usr/bin/env python
"""Look through a data set before a training: annotations, every picture, and the names.

    python scripts/check_dataset.py --json train.json --images pictures
    python scripts/check_dataset.py --dataset lvis_v1_val
    python scripts/check_dataset.py --config-file CONFIG.py data.train.json=train.json

With a config both of its data sets are checked, and whether they share pictures; of a benchmark's
config take --part val. Exits with 1 if a
training would be refused, or pictures are missing or can't be read; what one should know, but can
train with, is printed and changes nothing.
"""

import argparse
import os
import sys
from pathlib import Path

from detectron2.config import instantiate
from omegaconf import DictConfig

from gridclip.data import DatasetDescription, open_dataset
from gridclip.data.benchmarks import find_benchmark
from gridclip.data.inspection import Inspection, inspect_dataset, shared_content, size_at_test
from gridclip.engine.prepare import check_same_categories
from gridclip.files import replacing
from gridclip.settings import load_config
from gridclip.text import TextEmbeddings, as_text_embeddings


def opened(part: str, source: DictConfig | dict) -> DatasetDescription:
    """The description; a missing file's error says where to get it, as far as that is known."""
    try:
        return instantiate(source) if isinstance(source, DictConfig) else open_dataset(**source)
    except ValueError as error:
        raise ValueError(f"{part}: {error}") from error
    except OSError as error:
        known = find_benchmark([source.get("dataset"), source.get("json")])
        get = f" {known.how_to_get}" if known else ""
        raise FileNotFoundError(f"{part}: {error}{get}") from error


def text_embeddings(
    args: argparse.Namespace, cfg: DictConfig | None, data: DatasetDescription, templates: str
) -> TextEmbeddings | None:
    """Those that are given, else the config's, if they are there."""
    if args.clip is not None:
        return as_text_embeddings(list(data.names), args.clip, templates)
    path = args.text_embeddings
    if path is None and cfg is not None:
        path = cfg.model.classifier.text_embeddings
        path = path if Path(path).is_file() else None
    return None if path is None else TextEmbeddings.load(path)


def check(
    args: argparse.Namespace, part: str, source: DictConfig | dict, cfg: DictConfig | None
) -> Inspection:
    data = opened(part, source)
    options = {}
    if cfg is not None:
        options["test_size"] = size_at_test(cfg.dataloader.test.mapper.augmentations)
    templates = "imagenet" if cfg is None else cfg.clip.templates
    embeddings = text_embeddings(args, cfg, data, templates)
    done = inspect_dataset(
        data, num_workers=args.num_workers, templates=templates, embeddings=embeddings, **options
    )
    print(f"\n{part}: {done}", flush=True)
    return done


def check_together(cfg: DictConfig, train: Inspection, val: Inspection) -> None:
    """Raises ValueError if a training refuses the two."""
    instantiate(cfg.dataloader.train.dataset)
    check_same_categories(train.data, val.data)
    if shared := shared_content(train, val):
        print(f"\n{len(shared):,} pictures are in both, the first {shared[0]}")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--json", metavar="FILE", help="annotations in COCO's or LVIS's format")
    add("--images", metavar="DIR", help="the folder of the pictures of --json")
    add("--dataset", metavar="NAME", help="instead: a name in detectron2's DatasetCatalog")
    add("--config-file", metavar="CONFIG.py", help="instead: the data sets of a config")
    add("--part", choices=["train", "val"], help="this data set of the config alone")
    add("opts", nargs="*", metavar="key=value", help="overrides of the config")
    add("--num-workers", type=int, default=os.cpu_count(), metavar="N", help="default: all cores")
    add("--clip", metavar="WEIGHTS", help="compare the names by CLIP: clip://RN50 or a file")
    add("--text-embeddings", metavar="FILE", help="compare the names by these instead")
    add("--list", type=Path, metavar="FILE", help="write all pictures that can't be used there")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 if a training would take the data."""
    args = parse_args(argv)
    cfg, sources = None, {"data": dict(json=args.json, images=args.images, dataset=args.dataset)}
    done, refused = list[Inspection](), False
    try:
        if args.config_file is not None:
            cfg = load_config(args.config_file, args.opts)
            sources = {
                f"data.{part}": cfg.data[part]
                for part in ([args.part] if args.part else ["train", "val"])
            }
        for part, source in sources.items():
            try:
                done.append(check(args, part, source, cfg))
            except (OSError, ValueError) as error:
                print(f"error: {error}", file=sys.stderr)
                refused = True
        if args.list is not None:
            with replacing(args.list) as partial:
                lines = [line for inspection in done for line in inspection.pictures]
                partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        if not refused and len(done) == 2:
            check_together(cfg, done[0], done[-1])
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    usable = not refused and all(inspection.usable for inspection in done)
    if usable and any(not inspection.data.annotations.available for inspection in done):
        print("\nIt can be evaluated without metrics: there are no annotations.")
    else:
        print("\nA training can use it." if usable else "\nA training can't use it.")
    return 0 if usable else 1


if __name__ == "__main__":
    sys.exit(main())
