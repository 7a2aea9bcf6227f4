"""What a detector found in a picture, with names."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from detectron2.structures import Instances

from gridclip_runtime.prediction import detection_rows, novel_names

if TYPE_CHECKING:
    import supervision as sv


@dataclass(frozen=True)
class Names:
    """The vocabulary of a prediction.

    Attributes:
        names: of the C categories.
        base: names that pictures were annotated with in training; None if that is not known.
    """

    names: tuple[str, ...]
    base: frozenset[str] | None = None


class Prediction(Instances):
    """detectron2's ``Instances`` of one picture, which also know their names.

    Fields: ``pred_boxes`` XYXY in pixels, ``scores`` (N,) float32, descending, and ``pred_classes``
    (N,) int64. In a video that is tracked, ``track_ids`` (N,) int64, too: -1 is none. A part of a
    prediction, such as ``prediction[prediction.scores > 0.5]``, is one.
    """

    _vocabulary: Names
    _source: str | None

    def __init__(
        self,
        image_size: tuple[int, int],
        *,
        vocabulary: Names,
        source: str | None = None,
        **fields: Any,
    ):
        """
        Args:
            image_size: height and width of the picture in pixels.
            vocabulary: of which ``pred_classes`` are indices.
            source: the picture's file, if it has one.
        """
        super().__init__(image_size, **fields)
        self._vocabulary, self._source = vocabulary, source

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The names that were looked for."""
        return self._vocabulary.names

    @property
    def source(self) -> str | None:
        return self._source

    @property
    def names(self) -> list[str]:
        """The name of each of the N detections."""
        return [self.vocabulary[c] for c in self.pred_classes.tolist()]

    @property
    def novel(self) -> list[bool] | None:
        """Whether each detection's name is one that no training picture was annotated with; None if
        that is not known."""
        return novel_names(self.names, self._vocabulary.base)

    @property
    def tracks(self) -> list[int | None] | None:
        """The number of each detection's track in a video, from 1; None of one that is in none yet.
        Without tracking, None."""
        if not self.has("track_ids"):
            return None
        return [None if track < 0 else track for track in self.track_ids.tolist()]

    def above(self, threshold: float) -> "Prediction":
        """The detections with at least this score."""
        return self[self.scores >= threshold]

    def resized(self, height: int, width: int) -> "Prediction":
        """The same detections in the picture at another size, in pixels."""
        boxes = self.pred_boxes.clone()
        boxes.scale(width / self.image_size[1], height / self.image_size[0])
        fields = {**self.get_fields(), "pred_boxes": boxes}
        return self._named(Instances((height, width), **fields))

    def to(self, *args: Any, **kwargs: Any) -> "Prediction":
        return self._named(super().to(*args, **kwargs))

    def __getitem__(self, item: Any) -> "Prediction":
        return self._named(super().__getitem__(item))

    def _named(self, instances: Instances) -> "Prediction":
        return Prediction(
            instances.image_size,
            vocabulary=self._vocabulary,
            source=self._source,
            **instances.get_fields(),
        )

    def to_dicts(self) -> list[dict]:
        """The detections as JSON can hold them.

        Returns:
            Of each "name", "score", "box" (x0, y0, x1, y1 in pixels), "novel" where that is known,
            and "track" where :attr:`tracks` is not None.
        """
        boxes = self.pred_boxes.tensor.tolist()
        rows = detection_rows(self.names, self.scores.tolist(), boxes, self.novel)
        if (tracks := self.tracks) is not None:
            rows = [{**row, "track": track} for row, track in zip(rows, tracks, strict=True)]
        return rows

    def to_supervision(self) -> "sv.Detections":
        """``supervision.Detections`` with ``data["class_name"]``, and ``data["novel"]`` where that
        is known."""
        import supervision as sv  # it takes a second, and not everyone needs it

        data: dict[str, Any] = {"class_name": np.array(self.names, dtype=str)}
        if (novel := self.novel) is not None:
            data["novel"] = np.array(novel, dtype=bool)
        return sv.Detections(
            xyxy=self.pred_boxes.tensor.numpy().astype(np.float32),
            confidence=self.scores.numpy(),
            class_id=self.pred_classes.numpy(),
            tracker_id=self.track_ids.numpy() if self.has("track_ids") else None,
            data=data,
        )


def shorten(words: Iterable[str], limit: int = 3) -> str:
    """The first words, and dots if there are more."""
    words = list(words)
    return ", ".join([*words[:limit], *(["..."] if len(words) > limit else [])])
