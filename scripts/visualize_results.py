#!/usr/bin/env python
"""Draw the results of a training or an evaluation.

    python scripts/visualize_results.py OUTPUT_DIR

Writes OUTPUT_DIR/pictures/*.jpg, detections beside the ground truth, and OUTPUT_DIR/losses.png.
"""

import argparse
import json
import sys
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from gridclip.data.datasets import check_annotations_exist
from gridclip.evaluation import draw_detections, plot_losses, read_results
from gridclip.evaluation.lvis_evaluator import rare_classes


def find_predictions(output_dir: Path) -> Path:
    """The detections that an evaluation wrote.

    Raises:
        FileNotFoundError: there are none.
    """
    name = "lvis_instances_results.json"
    for path in (output_dir / name, output_dir / "inference" / name):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"No {name} in {output_dir} or {output_dir / 'inference'}: evaluate first, "
        "with this output directory."
    )


def find_novel_classes(dataset_name: str, expected: int) -> list[int]:
    """The contiguous ids of the novel classes of an evaluation.

    They are those of the metadata, or else LVIS's rare categories.

    Args:
        expected: their number according to the evaluation. If it differs from the number found,
            a warning is printed and the list is empty, so that no class is marked as novel.
    """
    if not expected:
        return []
    metadata = MetadataCatalog.get(dataset_name)
    novel_classes = metadata.get("novel_classes")
    if novel_classes is None:
        categories = json.loads(Path(metadata.json_file).read_text(encoding="utf-8"))["categories"]
        novel_classes = rare_classes(metadata, categories)
    if len(novel_classes) == expected:
        return list(novel_classes)
    print(
        f"{dataset_name} has {len(novel_classes)} novel categories, results.json says {expected}: "
        "no category is marked as novel.",
        file=sys.stderr,
    )
    return []


def draw_pictures(args: argparse.Namespace) -> None:
    """Write the pictures and print their paths."""
    predictions = find_predictions(args.output_dir)
    results_json = args.output_dir / "results.json"
    if args.dataset and not results_json.is_file():
        dataset_name, num_novel = args.dataset, 0
    else:
        protocol = read_results(results_json)["protocol"]
        dataset_name, num_novel = args.dataset or protocol["dataset"], protocol["novel_classes"]
    check_annotations_exist(dataset_name)

    found = json.loads(predictions.read_text(encoding="utf-8"))
    images = {detection["image_id"] for detection in found}  # may be a part of the data set
    written = draw_detections(
        [record for record in DatasetCatalog.get(dataset_name) if record["image_id"] in images],
        MetadataCatalog.get(dataset_name),
        found,
        args.output_dir / "pictures",
        score_threshold=args.score_threshold,
        max_images=args.max_images,
        novel_classes=find_novel_classes(dataset_name, num_novel),
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
    parser.add_argument("--dataset", metavar="NAME", help="default: the one in results.json")
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
