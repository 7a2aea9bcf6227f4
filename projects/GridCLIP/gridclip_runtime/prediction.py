"""What an exported detector found in a picture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Prediction:
    """The N detections, best first. ``prediction[:5]`` and ``prediction[prediction.scores > 0.5]``
    are parts of it.

    Attributes:
        image_size: height and width of the picture in pixels.
        pred_boxes: (N, 4) float32, XYXY in pixels.
        scores: (N,) float32.
        pred_classes: (N,) int64, indices into ``vocabulary``.
        vocabulary: the names that were looked for.
        base: names that training pictures were annotated with; None if that is not known.
        source: the picture's file, if it has one.
    """

    image_size: tuple[int, int]
    pred_boxes: np.ndarray
    scores: np.ndarray
    pred_classes: np.ndarray
    vocabulary: tuple[str, ...]
    base: frozenset[str] | None = None
    source: str | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> "Prediction":
        fields = ("pred_boxes", "scores", "pred_classes")
        return replace(self, **{field: getattr(self, field)[rows] for field in fields})

    @property
    def names(self) -> list[str]:
        """The name of each detection."""
        return [self.vocabulary[c] for c in self.pred_classes.tolist()]

    @property
    def novel(self) -> list[bool] | None:
        """Whether each detection's name is one that no training picture was annotated with; None if
        that is not known."""
        return novel_names(self.names, self.base)

    def above(self, threshold: float) -> "Prediction":
        """The detections with at least this score."""
        return self[self.scores >= np.float32(threshold)]

    def to_dicts(self) -> list[dict[str, Any]]:
        """The detections as JSON can hold them: of each "name", "score", "box" (x0, y0, x1, y1 in
        pixels), and "novel" where that is known."""
        boxes = self.pred_boxes.tolist()
        return detection_rows(self.names, self.scores.tolist(), boxes, self.novel)


def novel_names(names: Sequence[str], base: frozenset[str] | None) -> list[bool] | None:
    """Whether each name is none of ``base``; None if that is not known."""
    return None if base is None else [name not in base for name in names]


def detection_rows(
    names: Sequence[str],
    scores: Sequence[float],
    boxes: Sequence[Sequence[float]],
    novel: Sequence[bool] | None,
) -> list[dict[str, Any]]:
    """Detections as JSON can hold them; see :meth:`Prediction.to_dicts`."""
    rows: list[dict[str, Any]] = [
        {"name": name, "score": round(score, 4), "box": [round(x, 2) for x in box]}
        for name, score, box in zip(names, scores, boxes, strict=True)
    ]
    if novel is not None:
        rows = [{**row, "novel": is_novel} for row, is_novel in zip(rows, novel, strict=True)]
    return rows
