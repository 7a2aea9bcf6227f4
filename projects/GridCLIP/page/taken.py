"""What a person takes away: detections as JSON and in COCO's format, and the drawn picture."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from gridclip.label_files import CocoDataset, picture_record
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
    return _json(picture_record(Path(found.path).name, found.prediction.above(threshold)))


def as_coco(found: Found, threshold: float) -> bytes:
    """A data set of one picture, its categories those that were looked for."""
    dataset, shown = CocoDataset(), found.prediction.above(threshold)
    dataset.add(Path(found.path).name, shown)
    return _json(dataset.record(shown.vocabulary))


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
