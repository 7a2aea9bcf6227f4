"""Pictures for a person: boxes, and labels that can be read.

supervision takes a second to import, and those who train do not need it: functions import it.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from gridclip.fonts import default_font, font_runs, load_font
from gridclip.pictures import Picture, read_picture
from gridclip.prediction import Prediction

if TYPE_CHECKING:
    import supervision as sv

BASE_COLOR, NOVEL_COLOR = "#1accff", "#ff8000"
MIN_SIDE = 640


def draw_prediction(
    picture: Picture, prediction: Prediction, *, min_side: int = MIN_SIDE
) -> Image.Image:
    """Draw what was found in a picture: name, score and, of a video, the track's number.

    Where it is known which names are novel, these are orange and starred, and the others blue.
    Otherwise each name has a colour.

    Args:
        picture: the one that ``prediction`` is of.
        min_side: as in :func:`draw_boxes`.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is not a picture.
    """
    labels = [
        f"{name} {score:.2f}"
        for name, score in zip(prediction.names, prediction.scores.tolist(), strict=True)
    ]
    if (tracks := prediction.tracks) is not None:
        marks = ["" if track is None else f"#{track} " for track in tracks]
        labels = [f"{mark}{label}" for mark, label in zip(marks, labels, strict=True)]
    return draw_boxes(
        picture,
        prediction.pred_boxes.tensor.numpy(),
        labels,
        classes=prediction.pred_classes.tolist(),
        novel=prediction.novel,
        min_side=min_side,
    )


def draw_boxes(
    picture: Picture,
    boxes: np.ndarray | Sequence[Sequence[float]],
    labels: Sequence[str],
    *,
    classes: Sequence[int],
    novel: Sequence[bool] | None = None,
    min_side: int = MIN_SIDE,
) -> Image.Image:
    """Draw labelled boxes on a picture. All labels lie in it whole, apart from each other where
    there is room; those of the first boxes are on top.

    Args:
        boxes: (N, 4) XYXY in pixels. What lies outside of the picture is not drawn.
        labels: of the N boxes, "" for none. Of one that is wider than the picture the middle is
            left out.
        classes: of the N boxes, which choose the colours if ``novel`` is None.
        novel: whether the boxes are of novel categories; these are orange and starred.
        min_side: a picture whose longer side has fewer pixels is enlarged to that, as labels can't
            be read on a small one.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is not a picture.
    """
    import supervision as sv

    canvas = Image.fromarray(read_picture(picture))
    scale = max(1.0, min_side / max(canvas.size))
    if scale > 1:
        size = [max(1, round(side * scale)) for side in canvas.size]
        canvas = canvas.resize(size, Image.Resampling.BICUBIC)
    if not len(boxes):
        return canvas
    colors = [sv.ColorPalette.DEFAULT.by_idx(c) for c in classes]
    if novel is not None:
        colors = [sv.Color.from_hex(NOVEL_COLOR if is_novel else BASE_COLOR) for is_novel in novel]
        labels = [
            f"★ {label}" if label and is_novel else label
            for label, is_novel in zip(labels, novel, strict=True)
        ]
    # The first, which are the best, are drawn last.
    xyxy = np.asarray(boxes, dtype=np.float32)[::-1] * scale
    canvas = _draw_frames(canvas, xyxy, colors[::-1])
    _draw_labels(canvas, xyxy, labels[::-1], colors[::-1])
    return canvas


def _draw_frames(canvas: Image.Image, xyxy: np.ndarray, colors: list["sv.Color"]) -> Image.Image:
    import supervision as sv

    thickness = max(2, round(max(canvas.size) / 400))
    # The lines' outer half lies outside of a box: that of one at the border has to be seen, too.
    margin = thickness // 2
    last = np.array(canvas.size * 2) - 1 - margin
    inside = sv.Detections(np.clip(xyxy, min(margin, *last), last))
    palette = sv.ColorPalette(colors)
    annotator = sv.BoxAnnotator(palette, thickness, color_lookup=sv.ColorLookup.INDEX)
    return annotator.annotate(canvas, inside)


def _draw_labels(
    canvas: Image.Image, xyxy: np.ndarray, labels: Sequence[str], colors: list["sv.Color"]
) -> None:
    """Not by supervision's RichLabelAnnotator, as that has one font for all letters."""
    from supervision.annotators.utils import snap_boxes
    from supervision.detection.utils.boxes import spread_out_boxes

    font_size = max(13, round(max(canvas.size) / 60))
    room = (canvas.width, canvas.height)
    shown = [
        (text, box, color)
        for label, box, color in zip(labels, xyxy, colors, strict=True)
        if (text := _fitting(label, font_size, room)) is not None
    ]
    if not shown:
        return
    sizes = np.array([text.size for text, _, _ in shown])
    corners = np.clip([box[:2] for _, box, _ in shown], 0, room)
    corners[:, 1] -= sizes[:, 1]  # they stand on their box
    places = snap_boxes(np.hstack([corners, corners + sizes]).astype(np.float32), room)
    places = snap_boxes(spread_out_boxes(places).astype(np.float32), room)
    draw = ImageDraw.Draw(canvas)
    for (text, _, color), (x, y, _, _) in zip(shown, places.astype(int).tolist(), strict=True):
        text.draw(draw, x, y, color)


class _Text:
    """A line of text on a coloured ground, in as many fonts as its letters need."""

    def __init__(self, text: str, font_size: int):
        self.runs = [(load_font(file, font_size), run) for file, run in font_runs(text)]
        self.padding = max(2, font_size // 5)
        # Of one font, so that all labels have one height.
        self.ascent, self.descent = load_font(default_font(), font_size).getmetrics()

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        width = sum(font.getlength(run) for font, run in self.runs)
        return int(np.ceil(width)) + 2 * self.padding, self.ascent + self.descent + 1

    def draw(self, draw: ImageDraw.ImageDraw, x: int, y: int, color: "sv.Color") -> None:
        width, height = self.size
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color.as_rgb())
        is_light = np.dot(color.as_rgb(), (0.299, 0.587, 0.114)) > 140
        left: float = x + self.padding
        for font, run in self.runs:
            fill = "black" if is_light else "white"
            draw.text((left, y + self.ascent), run, fill, font, anchor="ls")
            left += font.getlength(run)


def _fitting(label: str, font_size: int, room: tuple[int, int]) -> _Text | None:
    """The label, cut in its middle if need be; None if there is none or no room for any."""
    text = _Text(label, font_size)
    kept = len(label) - 1
    while label and (text.size[0] > room[0] or text.size[1] > room[1]):
        if kept < 2:
            return None
        end = min(5, kept // 2)  # room for a score
        text = _Text(f"{label[: kept - end]}…{label[-end:]}", font_size)
        kept -= 1
    return text if label else None
