#!/usr/bin/env python
"""Compare detectors in inference and training: time by stage, memory, arithmetic, total cost.

    python scripts/compare_speed.py --json speed.json
    python scripts/compare_speed.py --quick --json speed.json
    python scripts/compare_speed.py --config-file A.py B.py --weights A.pth B.pth --json speed.json
    python scripts/compare_speed.py --peers --json peers_cpu.json

By default GridCLIP R50 is compared with ViLD, ViLD-ensemble, detectron2's FCOS (closed-set, with
GridCLIP's backbone, towers and number of categories), detectron2's LVIS Faster R-CNN R50 and
torchvision's FCOS. GridCLIP is also measured in half precision, compiled, and with the 21,841 names
of ImageNet-21k. All detectors take turns on the same pictures, with the same batch size, precision,
device and threads. The JSON holds the ratios and every figure that they follow from. A picture of
the stages is written beside it.

There are two post-processings. The official one is each detector's own. In the matched one ViLD has
a score threshold of 0.01, so that about as many pairs go to NMS in both.

Without checkpoints the weights are random and calibrated: norms to the pictures, and biases so that
about the same number of pairs goes to NMS in every detector. The time of NMS depends on that.

--quick takes small pictures and few runs, minutes on two cores. Its ratios differ from those at
800 x 1333, because the cost of proposals does not shrink with the picture.

--peers measures something else: GridCLIP and ViLD beside open-vocabulary detectors of other
libraries (requirements-peers.txt) on the CPU, in PyTorch and in OpenVINO with 32 and 8 bits,
against the number of names and the size of the picture. What was measured is written after every
detector.
"""

import argparse
from pathlib import Path

import torch

from benchmark import report
from benchmark.comparison import Settings, compare
from benchmark.peers import measuring, plan, tables
from gridclip.files import write_json


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", type=Path, nargs="+", default=[], metavar="C", help="at least two")
    add("--weights", nargs="+", metavar="W", help="a checkpoint for each of --config-file")
    add("--image-dir", type=Path, metavar="DIR", help="pictures (default: random ones)")
    add("--size", type=int, nargs=2, metavar=("H", "W"), help="of a picture (default: 800 1333)")
    add("--batch-size", type=int, default=1, metavar="N", help="default: 1")
    add(
        "--runs", type=int, metavar="N", help="counted runs (default: 10); half as many in training"
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", default=device, help="default: cuda where there is one, else cpu")
    dtypes = ["float32", "bfloat16", "float16"]
    add("--dtype", default="float32", choices=dtypes, help="default: float32")
    add("--compile", action="store_true", help="use torch.compile in inference")
    add("--threads", type=int, metavar="N", help="threads of PyTorch's operators")
    add("--quick", action="store_true", help="small pictures, few runs, fewer detectors")
    add("--peers", action="store_true", help="beside detectors of other libraries, on the CPU")
    add(
        "--json",
        type=Path,
        required=True,
        metavar="FILE",
        help="all figures; the picture is beside it",
    )
    args = parser.parse_args(argv)
    configs = args.config_file
    if missing := [path for path in configs if not path.is_file()]:
        parser.error(f"--config-file: there is no {missing[0]}")
    if len(configs) == 1 or len({path.stem for path in configs}) < len(configs):
        parser.error("--config-file: give at least two, of different names")
    if args.weights and len(args.weights) != len(configs):
        parser.error("--weights: give one for each of --config-file")
    others = (configs, args.image_dir, args.size, args.compile, args.batch_size != 1)
    if args.peers and (any(others) or args.dtype != "float32"):
        parser.error("--peers takes --quick, --runs, --threads and --json alone")
    args.size = args.size or ((256, 416) if args.quick else (800, 1333))
    args.runs = args.runs or (2 if args.quick else 10)
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.peers:
        compare_peers(args)
        return
    settings = Settings(
        configs=args.config_file,
        weights=args.weights,
        image_dir=args.image_dir,
        size=tuple(args.size),
        batch_size=args.batch_size,
        runs=args.runs,
        device=args.device,
        dtype=args.dtype,
        compile=args.compile,
        quick=args.quick,
    )
    record = compare(settings)
    picture = args.json.with_suffix(".png")
    write_json(args.json, record, indent=1)
    report.draw(record, picture)
    print(report.tables(record))
    print(f"\n{args.json}, {picture}")


def compare_peers(args: argparse.Namespace) -> None:
    chosen = plan.quick_plan(args.runs) if args.quick else plan.whole_plan(args.runs)
    record = measuring.compare(chosen, args.json)
    parts = tables.latency_table(record), tables.ratio_table(record), tables.not_run_text(record)
    print("\n\n".join(filter(None, parts)))
    print(f"\n{args.json}, {args.json.with_suffix('.png')}")


if __name__ == "__main__":
    main()
