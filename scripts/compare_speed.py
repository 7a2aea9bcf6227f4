#!/usr/bin/env python
"""Compare detectors in inference and training: time by stage, memory, arithmetic, cost in all.

    python scripts/compare_speed.py --json speed.json
    python scripts/compare_speed.py --quick --json speed.json
    python scripts/compare_speed.py --config-file A.py B.py --weights A.pth B.pth --json speed.json

By default GridCLIP R50 is compared with ViLD and ViLD-ensemble, with detectron2's FCOS of as many
closed-set classes on the same backbone and towers, detectron2's LVIS Faster R-CNN R50 and
torchvision's FCOS; GridCLIP also in half precision, compiled, and with ImageNet-21k's 21,841 names.
All see the same pictures by turns, with the same batch size, precision, device and threads. The
JSON has the ratios and all that they follow from; a picture of the stages is written beside it.

Two post-processings: *official*, each detector's own, and *matched*, in which ViLD has GridCLIP's
score threshold; about as many pairs then go to NMS in both.

Without checkpoints weights are random and calibrated: norms to the pictures, and biases so that as
many pairs pass the score threshold in every detector. Times of NMS depend on that.

--quick: small pictures and few runs, in minutes on two cores. Its ratios are not those of
800 x 1333: the cost of proposals does not shrink with the picture.
"""

import argparse
from pathlib import Path

import torch

from benchmark import report
from benchmark.comparison import compare
from gridclip.files import write_json


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", type=Path, nargs="+", metavar="C", help="compare these, at least two")
    add("--weights", nargs="+", metavar="W", help="checkpoints of --config-file, in its order")
    add("--image-dir", type=Path, metavar="DIR", help="pictures; else random ones")
    add("--size", type=int, nargs=2, metavar=("H", "W"), help="of a picture (800 1333)")
    add("--batch-size", type=int, default=1, metavar="N")
    add("--runs", type=int, metavar="N", help="counted ones (10); of training half as many")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    add("--compile", action="store_true", help="torch.compile in inference")
    add("--threads", type=int, metavar="N", help="of PyTorch's operators")
    add("--quick", action="store_true", help="smaller, in minutes")
    add("--json", type=Path, required=True, metavar="FILE")
    args = parser.parse_args(argv)
    configs = args.config_file or []
    if missing := [path for path in configs if not path.is_file()]:
        parser.error(f"--config-file: there is no {missing[0]}")
    if len(configs) == 1 or len({path.stem for path in configs}) < len(configs):
        parser.error("--config-file: give at least two, of different names")
    if args.weights and len(args.weights) != len(configs):
        parser.error("--weights: give one for each of --config-file")
    args.size = args.size or ((256, 416) if args.quick else (800, 1333))
    args.runs = args.runs or (2 if args.quick else 10)
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    record = compare(args)
    write_json(args.json, record, indent=1)
    report.draw(record, args.json.with_suffix(".png"))
    print(report.tables(record))
    print(f"\n{args.json}, {args.json.with_suffix('.png')}")


if __name__ == "__main__":
    main()
