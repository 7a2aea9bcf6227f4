#!/usr/bin/env python
"""Generate ShapesLVIS: a small detection world in LVIS v1's format.

    python -m laptop_world.generate --world dev --output datasets/shapes

writes DIR/shapes_dev_train.json and DIR/shapes_dev_val.json, their pictures in folders of the same
names, and DIR/shapes_dev_contact_sheet.png, a sheet of example pictures. After an interruption,
give the same command again: pictures that are there are kept.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from tabulate import tabulate

from gridclip.files import replacing
from laptop_world.shapes import AXES, generate_shapes

_CELL, _COLUMNS, _ROWS = 320, 6, 4


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--world", required=True, choices=("dev", "test"), help="they differ in what is novel")
    add("--output", required=True, type=Path, metavar="DIR")
    add("--train", type=int, default=4000, metavar="N", help="training pictures (default: 4000)")
    add("--val", type=int, default=1000, metavar="N", help="validation pictures (default: 1000)")
    add("--size", type=int, default=128, metavar="PX", help="side of a picture (default: 128)")
    add("--seed", type=int, default=0)
    add("--num-workers", type=int, default=0, help="processes that draw (default: this one)")
    return parser


def table(categories: list[dict]) -> str:
    """Counts of LVIS categories, by frequency group and by what is novel in them."""
    counts = Counter((c["frequency"], c["novel_axis"]) for c in categories)
    images = {
        group: [c["image_count"] for c in categories if c["frequency"] == group] for group in "rcf"
    }
    rows = [
        [group, *(counts[group, axis] for axis in (None, *AXES)), len(images[group])]
        + ([f"{min(images[group])} to {max(images[group])}"] if images[group] else ["-"])
        for group in "rcf"
    ]
    headers = ["frequency", "base", *(f"novel {axis}" for axis in AXES), "all", "images each"]
    return tabulate(rows, headers)


def contact_sheet(json_file: Path) -> Image.Image:
    """The first 24 pictures of a split with boxes and names; novel categories are orange."""
    dataset = json.loads(json_file.read_text(encoding="utf-8"))
    categories = {c["id"]: c for c in dataset["categories"]}
    sheet = Image.new("RGB", (_COLUMNS * _CELL, _ROWS * _CELL))
    font = ImageFont.load_default(13)
    for i, image in enumerate(dataset["images"][: _COLUMNS * _ROWS]):
        with Image.open(json_file.parent.joinpath(*image["coco_url"].split("/")[-2:])) as picture:
            cell = picture.resize((_CELL - 4, _CELL - 4), Image.Resampling.LANCZOS)
        scale = cell.width / image["width"]
        draw = ImageDraw.Draw(cell)
        for annotation in dataset["annotations"]:
            if annotation["image_id"] != image["id"]:
                continue
            x, y, width, height = (scale * v for v in annotation["bbox"])
            category = categories[annotation["category_id"]]
            colour = "orange" if category["novel_axis"] else "white"
            draw.rectangle((x, y, x + width, y + height), outline=colour, width=2)
            text = category["name"].replace("_", " ")
            left = max(0, min(x, cell.width - draw.textlength(text, font)))
            place = (left, max(0, y - 15))
            draw.rectangle(draw.textbbox(place, text, font), fill="black")
            draw.text(place, text, fill=colour, font=font)
        sheet.paste(cell, (i % _COLUMNS * _CELL, i // _COLUMNS * _CELL))
    return sheet


def main(argv: list[str] | None = None) -> None:
    args = argument_parser().parse_args(argv)
    try:
        generated = generate_shapes(
            args.world,
            args.output,
            train=args.train,
            val=args.val,
            size=args.size,
            seed=args.seed,
            num_workers=args.num_workers,
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    with replacing(args.output / f"shapes_{args.world}_contact_sheet.png") as partial:
        contact_sheet(generated.json_files["val"]).save(partial)
    print(
        table(json.loads(generated.json_files["train"].read_text(encoding="utf-8"))["categories"])
    )
    total = args.train + args.val
    print(
        f"{args.output}: {generated.drawn} of {total} pictures drawn, the others existed\n"
        f"sha256 of annotations            {generated.annotations_sha256}\n"
        f"sha256 of annotations and pixels {generated.sha256}"
    )


if __name__ == "__main__":
    main()
