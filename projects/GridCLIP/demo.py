#!/usr/bin/env python
"""Detect the categories of any vocabulary in any picture.

    python projects/GridCLIP/demo.py --config-file CONFIG.py --weights FILE.pth \\
        --vocabulary "red shoe, traffic cone" --input street.jpg pictures/ --output detections

writes detections/<name>.jpg, the picture with the boxes found, and detections/<name>.json: names,
scores, and boxes as [x0, y0, x1, y1] in pixels. The default vocabulary is that of the training.
"""

import argparse
import glob
import re
import sys
import time
from collections.abc import Sequence
from os.path import isfile
from pathlib import Path

from detectron2.structures import Instances
from torchvision.datasets.folder import is_image_file
from tqdm import tqdm

from gridclip.files import replacing, write_json
from gridclip.pictures import read_picture
from gridclip.predictor import Predictor
from gridclip.text.names import DATASETS

_LISTED = 3  # detections of a picture, and names of a file, that are printed
# "coco.nmes", "names/mine", "~/my names": but neither "No. 5 bolt" nor "w/o lid".
_LIKE_A_FILE = re.compile(r"(~|\.{0,2})/.*|\S+/\S*|\S+\.[A-Za-z]\w*")


def find_pictures(inputs: Sequence[str]) -> list[Path]:
    """The files that paths, folders and glob patterns name, each once.

    A path that does not exist is kept: it is reported like other unreadable files.

    Raises:
        ValueError: a folder holds no pictures.
    """
    found = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            pictures = sorted(p for p in path.iterdir() if is_image_file(p.name))
            if not pictures:
                raise ValueError(f"There are no pictures in {path}.")
            found += pictures
        else:
            matches = [] if path.exists() else sorted(glob.glob(given, recursive=True))
            found += [Path(match) for match in matches] or [path]
    return list(dict.fromkeys(found))


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
    instances = predictor(image)
    milliseconds = 1000 * (time.perf_counter() - start)

    instances = instances[instances.scores >= args.score_threshold]
    detections = describe(instances, predictor.names)
    drawing = predictor.draw(image, instances, args.score_threshold)
    with replacing(args.output / f"{path.stem}.jpg") as partial:
        drawing.save(partial, quality=90)
    height, width = instances.image_size
    write_json(
        args.output / f"{path.stem}.json",
        {"image": str(path), "width": width, "height": height, "detections": detections},
        indent=1,
    )
    best = shorten([f"{d['name']} {d['score']:.2f}" for d in detections])
    listed = f" ({best})" if best else ""
    return f"{path}: {len(detections)} detections{listed}, {milliseconds:.0f} ms"


def shorten(words: Sequence[str]) -> str:
    return ", ".join([*words[:_LISTED], *(["..."] if len(words) > _LISTED else [])])


def describe(instances: Instances, names: Sequence[str]) -> list[dict]:
    """Detections as they are written to JSON."""
    rows = zip(
        instances.pred_classes.tolist(),
        instances.scores.tolist(),
        instances.pred_boxes.tensor.tolist(),
        strict=True,
    )
    return [
        {"name": names[c], "score": round(score, 4), "box": [round(x, 2) for x in box]}
        for c, score, box in rows
    ]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="CONFIG.py")
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
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
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
