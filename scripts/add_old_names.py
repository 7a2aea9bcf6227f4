#!/usr/bin/env python
"""Write an annotation file for fine-tuning that also tells of the names which a detector knows.

    python scripts/add_old_names.py --json train.json --images pictures \\
        --config-file before/config.yaml --weights before/model_final.pth --output with_old.json

Your file has boxes of new names only. What else is in the pictures, the detector says itself: see
docs/fine-tuning.md.
"""

import argparse
import json
import sys
from pathlib import Path

from tqdm import tqdm

from gridclip.data import open_dataset
from gridclip.data.old_names import add_old_names
from gridclip.files import write_json
from gridclip.predictor import Predictor


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--json", type=Path, required=True, metavar="FILE", help="annotations of the new names")
    add("--images", type=Path, required=True, metavar="DIR", help="the folder of its pictures")
    add("--config-file", required=True, metavar="CONFIG", help="that of the detector before")
    add("--weights", required=True, metavar="FILE", help="those of the detector before")
    add("--names", metavar="FILE", help="the old names, one a line (default: the detector's)")
    add("--sure", type=float, default=0.4, help="score of a box (default: 0.4)")
    add("--possible", type=float, default=0.1, help="score below which a name is absent (0.1)")
    add("--device", help="default: the config's, or the CPU where there is no GPU")
    add("--output", type=Path, required=True, metavar="FILE")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        data = open_dataset(json=args.json, images=args.images)
        data.check_pictures()
        ids = data.annotations.image_ids
        files = {image_id: data.file_name(i) for i, image_id in enumerate(ids)}
        detector = Predictor(
            args.config_file, args.weights, vocabulary=args.names, device=args.device
        )
        progress = tqdm(total=len(files), unit="picture")

        def detect(image: dict):
            progress.update()
            return detector(files[image["id"]])

        dataset = json.loads(args.json.read_text(encoding="utf-8"))
        scores = dict(sure=args.sure, possible=args.possible)
        with progress:
            result = add_old_names(dataset, detector.names, detect, **scores)
        write_json(args.output, result)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    added = len(result["annotations"]) - len(dataset["annotations"])
    print(f"{args.output}: {added} boxes of old names in {len(files)} pictures")


if __name__ == "__main__":
    main()
