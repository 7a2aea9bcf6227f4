"""Convert Pascal VOC or YOLO annotations to one JSON file in COCO's format.

    python scripts/convert_dataset.py voc --annotations Annotations --images JPEGImages \\
        --list ImageSets/Main/train.txt --output train.json
    python scripts/convert_dataset.py yolo --data data.yaml --labels labels/train \\
        --images images/train --output train.json

Pictures stay where they are: file_name is relative to --images. Categories are in the order of
data.yaml; those of VOC are sorted, and all that --annotations has, so that all splits agree.
Polygons become their boxes. A picture without a file of YOLO labels has no objects.

supervision reads the boxes. VOC counts pixels from 1 and xmax is in the box, so xmin and ymin lose
1. Where a file counted from 0, boxes become a pixel larger, and a 0 becomes -1. Objects that VOC
calls difficult are objects like others. A box from a point to itself stays without width and
height: the reader of the JSON reports it.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import yaml
from PIL import Image, ImageOps

# Of one file: DetectionDataset decodes all pictures and keeps a mask of every polygon.
from supervision.dataset.formats.pascal_voc import detections_from_xml_obj
from supervision.dataset.formats.yolo import yolo_annotations_to_detections
from torchvision.datasets.folder import is_image_file
from tqdm import tqdm

from gridclip.files import write_json


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors within become ValueErrors that name the file."""
    try:
        yield
    except (ElementTree.ParseError, yaml.YAMLError, OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_names(data_yaml: Path) -> list[str]:
    with naming(data_yaml):
        data = yaml.safe_load(data_yaml.read_text(encoding="utf-8"))
        names = data.get("names") if isinstance(data, dict) else None
        if isinstance(names, dict) and names.keys() == set(range(len(names))):
            names = [names[i] for i in range(len(names))]
        if not isinstance(names, list):
            raise ValueError("'names' must be a list, or names by number from 0.")
        if "kpt_shape" in data:
            raise ValueError("labels with keypoints (kpt_shape) are not read: export boxes.")
        return list(map(str, names))


def find_pictures(images: Path, files: Sequence[Path], listed: Path | None) -> list[Path]:
    """Those of a list; or all in the folder, and then each file of annotations needs one."""
    pictures = [path for path in sorted(images.iterdir()) if is_image_file(path.name)]
    sources = {path.stem: path for path in files}
    if listed:
        stems = map(str.strip, listed.read_text(encoding="utf-8").splitlines())
        sources = {stem: listed for stem in stems if stem}
        pictures = [path for path in pictures if path.stem in sources]
    if missing := sources.keys() - {path.stem for path in pictures}:
        stem = min(missing)
        raise ValueError(f"{sources[stem]}: there is no picture '{stem}' in {images}.")
    return pictures


def read_objects(path: Path, size: tuple[int, int], names: list[str]) -> list[tuple[str, list]]:
    """Names and boxes, [x0, y0, x1, y1] in pixels, in a picture of that width and height."""
    with naming(path):
        if path.suffix == ".xml":  # which has names itself; the size would be that of masks
            found, names = detections_from_xml_obj(ElementTree.parse(path).getroot(), [], (1, 1))
        else:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            lines = [line for line in lines if line.strip()]
            found = yolo_annotations_to_detections(lines, size, with_masks=False)
        classes, boxes = found.class_id.tolist(), found.xyxy.astype(float).round(3).tolist()
        if path.suffix == ".xml":  # xmin = xmax and ymin = ymax: a slip, and no object of a pixel
            boxes = [[*b[2:], *b[2:]] if b[2] - b[0] == b[3] - b[1] == 1 else b for b in boxes]
        if unknown := set(classes) - set(range(len(names))):
            raise ValueError(f"category {min(unknown)} is not one of the {len(names)} names.")
        return [(names[c], box) for c, box in zip(classes, boxes, strict=True)]


def convert(args: argparse.Namespace) -> dict:
    suffix = ".xml" if args.format == "voc" else ".txt"
    # LabelImg puts classes.txt among the labels.
    files = [p for p in sorted(args.annotations.glob(f"*{suffix}")) if p.name != "classes.txt"]
    if not files:
        raise ValueError(f"{args.annotations} has no annotations: there is no file *{suffix}.")
    if args.format == "voc":
        read = (read_objects(path, (1, 1), []) for path in tqdm(files, "Names", unit="file"))
        names = sorted({name for objects in read for name, _ in objects})
    else:
        names = read_names(args.data)
    images, annotations = [], []
    pictures = find_pictures(args.images, files, args.list)
    for image_id, picture in enumerate(tqdm(pictures, "Pictures", unit="picture"), start=1):
        path = args.annotations / f"{picture.stem}{suffix}"
        if args.format == "voc" and not path.exists():
            raise ValueError(f"{picture} has no {path}: leave it out by --list, or write it.")
        with naming(picture), Image.open(picture) as image:
            ImageOps.exif_transpose(image, in_place=True)  # decodes turned pictures alone
            width, height = image.size
        images.append(dict(id=image_id, file_name=picture.name, width=width, height=height))
        for name, (x0, y0, x1, y1) in read_objects(path, (width, height), names):
            w, h = round(x1 - x0, 3), round(y1 - y0, 3)
            category, index = names.index(name) + 1, len(annotations) + 1
            keys = dict(id=index, image_id=image_id, category_id=category, iscrowd=0)
            annotations.append(dict(**keys, bbox=[x0, y0, w, h], area=round(w * h, 3)))
    categories = [dict(id=i, name=name) for i, name in enumerate(names, start=1)]
    return dict(images=images, annotations=annotations, categories=categories)


def main(argv: Sequence[str] | None = None) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    formats = parser.add_subparsers(dest="format", required=True)
    path = dict(required=True, type=Path)
    for name, option in (("voc", "--annotations"), ("yolo", "--labels")):
        add = formats.add_parser(name, help=f"of {option} DIR and --images DIR").add_argument
        add(option, dest="annotations", metavar="DIR", help="a file a picture", **path)
        if name == "yolo":
            add("--data", metavar="data.yaml", help="has the names", **path)
        add("--images", metavar="DIR", help="the pictures", **path)
        add("--list", type=Path, metavar="FILE", help="one picture a line, no suffix")
        add("--output", metavar="FILE.json", help="is written, in COCO's format", **path)
    args = parser.parse_args(argv)
    try:
        data = convert(args)
        write_json(args.output, data)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    counts = Counter(annotation["category_id"] for annotation in data["annotations"])
    print(f"{args.output}: {len(data['images'])} pictures, {counts.total()} boxes")
    for category in data["categories"]:
        print(f"{counts[category['id']]:8}  {category['name']}")


if __name__ == "__main__":
    main()
