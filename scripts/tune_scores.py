#!/usr/bin/env python
"""Choose scale and weights of a detector's dense scores, after one pass over the pictures.

    python scripts/tune_scores.py --config-file CONFIG.py --weights output/model_final.pth \\
        --scales 10 15 20 --base-weights 0.1 0.15 0.25 --novel-weights 0.15 0.35 --opts KEY=VALUE

Choose on what you do not report: by the AP of base categories (the default), by that of base
categories that a training of its own left out (data.val.groups gives them a metric of their own),
or on development data. A metric that counts novel categories is refused without --development.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence

from detectron2.config import instantiate
from detectron2.utils.logger import setup_logger

from gridclip.engine.score_sweep import sweep_scores
from gridclip.engine.train import load_weights
from gridclip.settings import load_config

WITHOUT_NOVEL = ("AP_base", "APc", "APf")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="CONFIG.py", help="that of the training")
    add("--weights", required=True, metavar="FILE", help="of the trained detector")
    add(
        "--scales", nargs="+", type=float, metavar="X", help="of the cosines; default: the config's"
    )
    add(
        "--base-weights", nargs="+", type=float, metavar="X", help="from 0 to 1, of base categories"
    )
    add("--novel-weights", nargs="+", type=float, metavar="X", help="and of novel ones")
    add("--metric", default="AP_base", help="what is to be best (default: AP_base)")
    add("--development", action="store_true", help="the data are not those of any report")
    add("--opts", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the config")
    args = parser.parse_args(argv)
    if args.metric not in WITHOUT_NOVEL and not args.development:
        parser.error(
            f"{args.metric} may count novel categories, which must not choose what they are "
            f"reported with: take one of {', '.join(WITHOUT_NOVEL)}, or --development for data "
            "that no report uses"
        )
    return args


def settings(args: argparse.Namespace) -> list[dict[str, float]]:
    """Every combination of the values that are given."""
    values = {
        "scale": args.scales,
        "weight": args.base_weights,
        "novel_weight": args.novel_weights,
    }
    given = {name: choices for name, choices in values.items() if choices}
    return [dict(zip(given, x, strict=True)) for x in itertools.product(*given.values())]


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    setup_logger()
    setup_logger(name="gridclip")
    try:
        cfg = load_config(args.config_file, args.opts)
        model = instantiate(cfg.model).to(cfg.train.device)
        model = load_weights(cfg, model, args.weights).eval()
        rows = []
        for setting, metrics in zip(
            settings(args), sweep_scores(cfg, model, settings(args)), strict=True
        ):
            if args.metric not in metrics:
                raise ValueError(f"There is no metric {args.metric}: {', '.join(metrics)}.")
            rows.append((metrics[args.metric], setting, metrics))
            print(f"{args.metric} {metrics[args.metric]:.2f}  {setting}", flush=True)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    print("\nBest first:")
    for value, setting, _ in sorted(rows, key=lambda row: -row[0]):
        print(f"{args.metric} {value:.2f}  {setting}")


if __name__ == "__main__":
    main()
