#!/usr/bin/env python
"""Look at what a detector learned: results side by side, or where it sees a word.

    python scripts/visualize.py results OUTPUT_DIR [OUTPUT_DIR ...]
    python scripts/visualize.py words --config-file CONFIG.py --weights FILE.pth \\
        --words "red star, green fish" --input street.jpg --output DIR

The first reads what trainings and evaluations left in their output folders, or results files alone.
The second shows the scores of words over pictures. Both write PNG files and index.html, a page that
holds them all.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gridclip.arguments import add_detector_options, check_detector_options, load_detector
from gridclip.evaluation.report import write_report
from gridclip.pictures import find_pictures
from gridclip.settings import load_config
from gridclip.similarity import write_words


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    results = commands.add_parser("results", help="what evaluations found, side by side")
    add = results.add_argument
    add("runs", nargs="+", type=Path, metavar="OUTPUT_DIR", help="or a results.json alone")
    add("--output", type=Path, metavar="DIR", help="default: report/ in the first OUTPUT_DIR")
    add("--max-images", type=int, default=6, metavar="N", help="that are drawn of a run (6)")
    add(
        "--score-threshold",
        type=float,
        metavar="S",
        help="the least score that counts; default: 0.3 for confusions, and of each picture the "
        "best detections, as many as its objects, at least 5",
    )
    add("--config-file", metavar="CONFIG.py", help="of the runs, if it registers their data set")

    words = commands.add_parser("words", help="the scores of words over pictures")
    add_detector_options(words)
    add = words.add_argument
    add("--words", required=True, metavar="NAMES", help="between commas")
    add("--input", required=True, nargs="+", metavar="PIC", help="pictures, folders, globs")
    add("--output", required=True, type=Path, metavar="DIR", help="a folder, which is made")
    add("--device", help="default: the config's, or cpu where there is no CUDA")

    args = parser.parse_args(argv)
    if args.command == "results" and args.output is None:
        first = args.runs[0]
        if not first.is_dir():
            results.error(f"--output: where to? {first} is not a folder")
        args.output = first / "report"
    if args.command == "words":
        check_detector_options(words, args)
        args.words = [word.strip() for word in args.words.split(",") if word.strip()]
    return args


def show_results(args: argparse.Namespace) -> Path:
    if args.config_file is not None:
        load_config(args.config_file)
    return write_report(
        args.runs, args.output, score_threshold=args.score_threshold, max_images=args.max_images
    )


def show_words(args: argparse.Namespace) -> Path:
    pictures = find_pictures(args.input)
    predictor = load_detector(args, args.words, device=args.device)
    return write_words(predictor, pictures, args.output)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        page = show_results(args) if args.command == "results" else show_words(args)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(page)


if __name__ == "__main__":
    main()
