#!/usr/bin/env python
"""Detect the categories of any vocabulary in any picture.

    python projects/GridCLIP/demo.py --config-file CONFIG.py --weights FILE.pth \\
        --vocabulary "red shoe, traffic cone" --input street.jpg pictures/ --output detections

writes detections/<name>.jpg, the picture with the boxes found, and detections/<name>.json: names,
scores, and boxes as [x0, y0, x1, y1] in pixels. The default vocabulary is that of the training.
"""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from os.path import isfile
from pathlib import Path

from tqdm import tqdm

from gridclip.files import replacing, write_json
from gridclip.pictures import find_pictures, read_picture
from gridclip.prediction import shorten
from gridclip.predictor import Predictor
from gridclip.text.names import DATASETS

# "coco.nmes", "names/mine", "~/my names": but neither "No. 5 bolt" nor "w/o lid".
_LIKE_A_FILE = re.compile(r"(~|\.{0,2})/.*|\S+/\S*|\S+\.[A-Za-z]\w*")


def check_outputs(pictures: Sequence[Path], output_dir: Path) -> None:
    """Raises ValueError if one picture's output would replace another's, or a picture itself."""
    by_stem: dict[str, Path] = {}
    resolved = {picture.resolve() for picture in pictures}
    for picture in pictures:
        other = by_stem.setdefault(picture.stem, picture)
        drawing = output_dir / f"{picture.stem}.jpg"
        if other != picture:
            raise ValueError(f"{other} and {picture} would both write {drawing}: run them apart.")
        if drawing.resolve() in resolved:
            raise ValueError(f"The output would replace {drawing}: choose another --output.")


def parse_vocabulary(vocabulary: str) -> str | list[str]:
    """A file or a known data set stays as it is. Anything else is names between commas.

    Raises:
        FileNotFoundError: it looks like a file that is not there.
    """
    # Path.is_file() fails on a list of names that is longer than a file's name may be.
    if Path(vocabulary).suffix in (".safetensors", ".txt", ".json") or isfile(vocabulary):
        return vocabulary
    if vocabulary in DATASETS:
        return vocabulary
    if _LIKE_A_FILE.fullmatch(vocabulary) and "," not in vocabulary:
        raise FileNotFoundError(
            f"There is no file '{vocabulary}'. If it is a name, put a comma behind it."
        )
    return [name for name in map(str.strip, vocabulary.split(",")) if name]


def detect(predictor: Predictor, path: Path, args: argparse.Namespace) -> str:
    """Write the two files of a picture.

    Returns:
        A line that says what was found.
    """
    image = read_picture(path)
    start = time.perf_counter()
    found = predictor(image, threshold=args.score_threshold)
    milliseconds = 1000 * (time.perf_counter() - start)

    detections = found.to_dicts()
    drawing = predictor.draw(image, found, args.score_threshold)
    with replacing(args.output / f"{path.stem}.jpg") as partial:
        drawing.save(partial, quality=90)
    height, width = found.image_size
    write_json(
        args.output / f"{path.stem}.json",
        {"image": str(path), "width": width, "height": height, "detections": detections},
        indent=1,
    )
    best = shorten([f"{d['name']} {d['score']:.2f}" for d in detections])
    listed = f" ({best})" if best else ""
    return f"{path}: {len(detections)} detections{listed}, {milliseconds:.0f} ms"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file", required=True, metavar="CONFIG.py", help="that of the training"
    )
    parser.add_argument("--weights", required=True, metavar="FILE", help="the trained detector's")
    parser.add_argument(
        "--vocabulary",
        metavar="NAMES",
        help="names between commas; a text file with one name a line; a .safetensors file of text "
        f"embeddings; or one of {', '.join(DATASETS)} (default: the vocabulary of the training)",
    )
    parser.add_argument(
        "--input", required=True, nargs="+", metavar="PIC", help="pictures, folders, globs"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="is written")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.3,
        help="the least score that is drawn and written (default: %(default)s)",
    )
    parser.add_argument("--device", help="default: the config's, or cpu where there is no CUDA")
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="key=value", help="overrides of the config"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        pictures = find_pictures(args.input)
        check_outputs(pictures, args.output)
        args.output.mkdir(parents=True, exist_ok=True)
        vocabulary = None if args.vocabulary is None else parse_vocabulary(args.vocabulary)
        predictor = Predictor(
            args.config_file,
            args.weights,
            vocabulary=vocabulary,
            overrides=args.opts,
            device=args.device,
        )
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")

    if isinstance(vocabulary, str):
        print(f"{vocabulary}: {len(predictor.names)} names: {shorten(predictor.names)}")
    failures = 0
    for path in tqdm(pictures, "Pictures", unit="picture", disable=len(pictures) == 1):
        try:
            tqdm.write(detect(predictor, path, args))
        except (FileNotFoundError, ValueError) as error:
            failures += 1
            named = str(path) in str(error)
            tqdm.write(f"error: {error}" if named else f"error: {path}: {error}", file=sys.stderr)
    if failures:
        sys.exit(f"error: {failures} of {len(pictures)} pictures failed; see above")


if __name__ == "__main__":
    main()
