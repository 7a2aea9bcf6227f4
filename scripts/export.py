#!/usr/bin/env python
"""Write a detector as a file for other engines than PyTorch: ONNX, OpenVINO or torch.export.

    python scripts/export.py --detector detector.safetensors --output detector.onnx
    python scripts/export.py --config-file CONFIG.py --weights FILE.pth --output detector.xml

The name's ending chooses: .onnx, .xml (OpenVINO's, with a .bin beside it) or .pt2. What is written
is compared with the detector before it takes its place. ONNX and OpenVINO run without PyTorch, by
gridclip_runtime: docs/export.md.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from gridclip.export import Form, export
from gridclip.predictor import Predictor
from gridclip.text.names import parse_vocabulary


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--detector", metavar="FILE", help="a detector in one file, as Predictor.save writes it")
    add("--config-file", metavar="CONFIG.py", help="or that of the training, with --weights")
    add("--weights", metavar="FILE", help="the trained detector's")
    add("--vocabulary", metavar="NAMES", help="as of gridclip predict; default: the training's")
    add("--output", required=True, type=Path, metavar="FILE", help="ends in .onnx, .xml or .pt2")
    add("--fixed-words", action="store_true", help="make the words a part of the graph, no input")
    add("--raw", action="store_true", help="give the scores of all locations, and choose none")
    add("--opts", nargs="+", default=[], metavar="key=value", help="overrides of --config-file")
    args = parser.parse_args(argv)
    if args.detector and (args.config_file or args.weights or args.opts):
        parser.error("--detector has its config and weights: leave out the other options for them")
    if not args.detector and not (args.config_file and args.weights):
        parser.error("give --detector, or --config-file and --weights")
    return args


def load(args: argparse.Namespace) -> Predictor:
    vocabulary = None if args.vocabulary is None else parse_vocabulary(args.vocabulary)
    if not args.detector:
        plain = ["train.inference.dtype=float32", "train.inference.compile=False", *args.opts]
        return Predictor(
            *(args.config_file, args.weights),
            vocabulary=vocabulary,
            overrides=plain,
            device="cpu",
        )
    predictor = Predictor.load(args.detector, device="cpu")
    if vocabulary is not None:
        predictor.set_vocabulary(vocabulary)
    return predictor


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    warnings.filterwarnings("ignore", module="torch|onnxscript|copyreg")
    logging.getLogger("torch").setLevel(logging.ERROR)
    try:
        form = Form(words_as_input=not args.fixed_words, raw=args.raw)
        largest = export(load(args), args.output, form)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}")
    size = sum(
        f.stat().st_size for f in {args.output, args.output.with_suffix(".bin")} if f.is_file()
    )
    print(f"{args.output}: {size / 1e6:.1f} MB, differs by {largest:.1g} from the detector")


if __name__ == "__main__":
    main()
