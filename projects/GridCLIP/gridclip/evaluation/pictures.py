"""Pictures for a person: detections beside the ground truth."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data.detection_utils import check_image_size
from detectron2.structures import BoxMode
from msgspec.structs import asdict
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from gridclip.data import DatasetDescription, all_records
from gridclip.drawing import draw_boxes
from gridclip.files import replacing
from gridclip.pictures import read_picture

from .runs import evaluated_images, open_evaluated, open_runs, read_detections

_CAPTION_HEIGHT = 28
_GAP = 8
_MIN_PICTURE_SIDE = 1000


def draw_detections(
    records: Sequence[dict],
    data: DatasetDescription,
    predictions: Sequence[dict],
    out_dir: str | os.PathLike,
    *,
    score_threshold: float | None = None,
    max_images: int = 12,
) -> list[Path]:
    """Draw a JPEG of each image: ground truth left, detections right, novel categories starred.

    Images with novel ground truth come first, then the others, each in the dataset's order. Their
    files are returned.

    Args:
        records: of the data set, with annotations or without.
        data: the data set, which tells what is novel.
        predictions: in COCO's result format (image_id, category_id of the annotation file, bbox
            as XYWH in pixels, score), as the evaluator writes them.
        out_dir: pictures are named after the images' files.
        score_threshold: the least score that is drawn. None draws the best of each image, as
            many as it has ground-truth boxes and at least 5.
        max_images: the most that are drawn.

    Raises:
        FileNotFoundError: an image is missing.
        ValueError: a prediction has a category that the dataset does not have.
    """
    by_image = defaultdict(list)
    for prediction in sorted(predictions, key=lambda p: -p["score"]):
        by_image[prediction["image_id"]].append(prediction)

    novel = set(data.novel_classes or ())

    def without_novel(record: dict) -> bool:
        return novel.isdisjoint(a["category_id"] for a in record.get("annotations", ()))

    written = []
    chosen = sorted(records, key=without_novel)[:max_images]
    stems = Counter(Path(record["file_name"]).stem for record in chosen)
    for record in tqdm(chosen, desc="pictures", unit="image"):
        image = read_picture(record["file_name"])
        check_image_size(record, image)
        annotations, found = record.get("annotations", []), by_image[record["image_id"]]
        shown = found[: max(len(annotations), 5)]
        if score_threshold is not None:
            shown = [p for p in found if p["score"] >= score_threshold]
        marked = ", novel categories orange" if novel else ""
        least = f", score from {shown[-1]['score']:.2f}" if shown else ""
        sides = {
            f"ground truth ({len(annotations)}){marked}": annotations,
            f"detections ({len(shown)} of {len(found)}{least})": _as_annotations(shown, data),
        }
        drawn = [_draw_boxes(image, data, side) for side in sides.values()]
        picture = _side_by_side(drawn, list(sides))
        name = stem = Path(record["file_name"]).stem
        if stems[stem] > 1:  # of several folders
            name = f"{stem}_{record['image_id']}"
        path = Path(out_dir) / f"{name}.jpg"
        with replacing(path) as partial:
            picture.save(partial, quality=90)
        written.append(path)
    return written


def draw_results(
    output_dir: str | os.PathLike, *, score_threshold: float | None = None, max_images: int = 12
) -> list[Path]:
    """Draw what an evaluation found into ``<output_dir>/pictures``; see :func:`draw_detections`.

    Raises:
        FileNotFoundError: the folder holds no results, or the data are not there any more.
        ValueError: the results are of an earlier version, which did not say where the data are, or
            the data have changed since.
    """
    (run,) = open_runs([output_dir])
    data = open_evaluated(run)
    found = read_detections(Path(output_dir))
    data.check_pictures()
    images = evaluated_images(run, data, found)
    return draw_detections(
        [record for record in all_records(data) if record["image_id"] in images],
        data,
        [asdict(detection) for detection in found],
        Path(output_dir) / "pictures",
        score_threshold=score_threshold,
        max_images=max_images,
    )


def _as_annotations(predictions: list[dict], data: DatasetDescription) -> list[dict]:
    """Predictions in detectron2's format of annotations, with their "score"."""
    to_contiguous = {category_id: i for i, category_id in enumerate(data.category_ids)}
    if unknown := {p["category_id"] for p in predictions} - to_contiguous.keys():
        raise ValueError(
            f"The predictions have categories {sorted(unknown)}, which {data.source} "
            f"({len(data.names)} categories) does not have: predictions of another data set?"
        )
    return [
        {**p, "category_id": to_contiguous[p["category_id"]], "bbox_mode": BoxMode.XYWH_ABS}
        for p in predictions
    ]


def _draw_boxes(
    image: np.ndarray, data: DatasetDescription, objects: Sequence[dict]
) -> Image.Image:
    """Draw annotations on an RGB image (H, W, 3), which is enlarged if it is small."""
    classes = [o["category_id"] for o in objects]
    scores = [f" {o['score']:.2f}" if "score" in o else "" for o in objects]
    return draw_boxes(
        image,
        [BoxMode.convert(o["bbox"], o["bbox_mode"], BoxMode.XYXY_ABS) for o in objects],
        [f"{data.names[c]}{score}" for c, score in zip(classes, scores, strict=True)],
        classes=classes,
        novel=[c in data.novel_classes for c in classes]
        if data.novel_classes is not None
        else None,
        min_side=_MIN_PICTURE_SIDE,
    )


def _side_by_side(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Two pictures of one size, a white gap between them and captions above."""
    width, height = pictures[0].size
    canvas = Image.new("RGB", (2 * width + _GAP, _CAPTION_HEIGHT + height), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=18)
    for picture, caption, x in zip(pictures, captions, (0, width + _GAP), strict=True):
        canvas.paste(picture, (x, _CAPTION_HEIGHT))
        draw.text((x + 4, 3), caption, fill="black", font=font)
    return canvas
