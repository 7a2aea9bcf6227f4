#!/usr/bin/env python
"""Write a detector as a file for other engines than PyTorch: ONNX, OpenVINO or torch.export.

    python scripts/export.py --detector detector.safetensors --output detector.onnx
    python scripts/export.py --config-file CONFIG.py --weights FILE.pth --output detector.xml
    python scripts/export.py --detector detector.safetensors --output int8.xml --int8 pictures/

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

from gridclip.arguments import add_detector_options, check_detector_options, load_detector
from gridclip.export import Form, export
from gridclip.export.int8 import CALIBRATION_PICTURES
from gridclip.pictures import find_pictures
from gridclip.predictor import Predictor
from gridclip.text.names import parse_vocabulary


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_detector_options(parser)
    add = parser.add_argument
    add("--vocabulary", metavar="NAMES", help="as of gridclip predict; default: the training's")
    add("--output", required=True, type=Path, metavar="FILE", help="ends in .onnx, .xml or .pt2")
    add("--fixed-words", action="store_true", help="make the words a part of the graph, no input")
    add("--int8", metavar="PICTURES", help="of training or use, to compute in 8-bit integers")
    add("--raw", action="store_true", help="give the scores of all locations, and choose none")
    args = parser.parse_args(argv)
    check_detector_options(parser, args)
    return args


def load(args: argparse.Namespace) -> Predictor:
    vocabulary = None if args.vocabulary is None else parse_vocabulary(args.vocabulary)
    plain = ["train.inference.dtype=float32", "train.inference.compile=False"]
    return load_detector(args, vocabulary, device="cpu", overrides=plain)


def calibration_pictures(folder: str | None) -> list[Path] | None:
    """Evenly chosen; None without a folder."""
    if folder is None:
        return None
    files = find_pictures([folder])
    count = min(len(files), CALIBRATION_PICTURES)
    return [files[i * len(files) // count] for i in range(count)]


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    warnings.filterwarnings("ignore", module="torch|onnxscript|copyreg")
    logging.getLogger("torch").setLevel(logging.ERROR)
    try:
        form = Form(words_as_input=not args.fixed_words, raw=args.raw)
        found = export(load(args), args.output, form, calibration_pictures(args.int8))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}")
    size = sum(
        f.stat().st_size for f in {args.output, args.output.with_suffix(".bin")} if f.is_file()
    )
    print(
        f"{args.output}: {size / 1e6:.1f} MB, differs by {found.difference:.1g} from the detector"
    )
    if found.shared is not None:
        print(f"In int8 it finds {found.shared:.1%} of the best detections of these pictures.")


if __name__ == "__main__":
    main()
