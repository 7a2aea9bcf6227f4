#!/usr/bin/env python
"""Draw the results of a training or an evaluation.

    python scripts/visualize_results.py OUTPUT_DIR

Writes OUTPUT_DIR/pictures/*.jpg, detections beside the ground truth, and OUTPUT_DIR/losses.png.
"""

import argparse
import sys
from pathlib import Path

from gridclip.evaluation import draw_results, plot_losses
from gridclip.settings import load_config


def draw_losses(output_dir: Path) -> None:
    """Write the plot and print its path."""
    metrics_json = output_dir / "metrics.json"
    if metrics_json.is_file():
        print(plot_losses(metrics_json, output_dir / "losses.png"))
    else:
        print(f"There is no {metrics_json}, so there are no losses to plot.", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("--max-images", type=int, default=12)
    parser.add_argument(
        "--score-threshold",
        type=float,
        help="default: of each image the best, as many as its ground-truth boxes, at least 5",
    )
    parser.add_argument(
        "--config-file", metavar="CONFIG.py", help="of the run, if it registers its data set"
    )
    args = parser.parse_args(argv)
    try:
        if args.config_file is not None:
            load_config(args.config_file)
        draw_losses(args.output_dir)
        options = dict(score_threshold=args.score_threshold, max_images=args.max_images)
        for path in draw_results(args.output_dir, **options):
            print(path)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
