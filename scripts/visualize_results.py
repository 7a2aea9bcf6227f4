#!/usr/bin/env python
"""Draw the results of a training or an evaluation.

    python scripts/visualize_results.py OUTPUT_DIR

Writes OUTPUT_DIR/pictures/*.jpg, detections beside the ground truth, and OUTPUT_DIR/losses.png.
"""

import argparse
import json
import sys
from pathlib import Path

from gridclip.data import all_records, open_dataset
from gridclip.evaluation import draw_detections, plot_losses, read_results


def find_predictions(output_dir: Path) -> Path:
    """The detections that an evaluation wrote.

    Raises:
        FileNotFoundError: there are none.
    """
    found = sorted(output_dir.glob("*_instances_results.json"))
    if not found:
        raise FileNotFoundError(
            f"No *_instances_results.json in {output_dir}: evaluate first, with this output folder."
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def draw_pictures(args: argparse.Namespace) -> None:
    """Write the pictures and print their paths."""
    predictions = find_predictions(args.output_dir)
    results = args.output_dir / "results.json"
    if (arguments := read_results(results).get("data")) is None:
        raise ValueError(f"{results} is older and does not say where its data are: evaluate anew.")
    data = open_dataset(**arguments)
    data.check_pictures()
    found = json.loads(predictions.read_text(encoding="utf-8"))
    images = {detection["image_id"] for detection in found}  # may be a part of the data set
    written = draw_detections(
        [record for record in all_records(data) if record["image_id"] in images],
        data,
        found,
        args.output_dir / "pictures",
        score_threshold=args.score_threshold,
        max_images=args.max_images,
    )
    for path in written:
        print(path)


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
    args = parser.parse_args(argv)
    try:
        draw_losses(args.output_dir)
        draw_pictures(args)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
