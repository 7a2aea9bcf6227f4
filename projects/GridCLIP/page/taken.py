"""What a person takes away: detections as JSON and in COCO's format, and the drawn picture."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from gridclip.prediction import Prediction
from gridclip.predictor import Predictor


class Found(NamedTuple):
    """What was found in a picture.

    Attributes:
        predictor: which found it.
        path: of the picture.
        view: the picture as the page shows it.
        prediction: all detections, in pixels of the picture.
        seconds: that the detector took.
    """

    predictor: Predictor
    path: str
    view: Image.Image
    prediction: Prediction
    seconds: float

    def draw_view(self, threshold: float) -> Image.Image:
        return self.predictor.draw(
            self.view, self.prediction.resized(self.view.height, self.view.width), threshold
        )


def as_json(found: Found, threshold: float) -> bytes:
    height, width = found.prediction.image_size
    return _json(
        {
            "image": Path(found.path).name,
            "width": width,
            "height": height,
            "detections": found.prediction.above(threshold).to_dicts(),
        }
    )


def as_coco(found: Found, threshold: float) -> bytes:
    """A data set of one picture in COCO's format, its categories those that were looked for. Each
    annotation has a "score" besides. (supervision's export leaves scores out.)"""
    shown = found.prediction.above(threshold)
    height, width = shown.image_size
    annotations = []
    for category, row in zip(shown.pred_classes.tolist(), shown.to_dicts(), strict=True):
        x0, y0, x1, y1 = row["box"]
        box = [round(x, 2) for x in (x0, y0, x1 - x0, y1 - y0)]
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": 1,
                "category_id": category + 1,
                "bbox": box,
                "area": round(box[2] * box[3], 2),
                "iscrowd": 0,
                "score": row["score"],
            }
        )
    name = Path(found.path).name
    return _json(
        {
            "images": [{"id": 1, "file_name": name, "width": width, "height": height}],
            "annotations": annotations,
            "categories": [{"id": i, "name": n} for i, n in enumerate(shown.vocabulary, 1)],
        }
    )


def as_picture(found: Found, threshold: float) -> bytes:
    """A JPEG at the picture's own size; a small one is enlarged."""
    file = io.BytesIO()
    found.predictor.draw(found.path, found.prediction, threshold).save(file, "JPEG", quality=92)
    return file.getvalue()


def _json(value: dict) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


# By the button's label: the end of the file's name, and what makes its bytes.
DOWNLOADS: dict[str, tuple[str, Callable[[Found, float], bytes]]] = {
    "JSON": ("detections.json", as_json),
    "COCO": ("coco.json", as_coco),
    "Picture": ("detections.jpg", as_picture),
}
