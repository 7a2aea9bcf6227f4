"""An exported detector on any pictures."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from PIL import Image

from .engines import open_engine
from .pictures import Picture, as_input, read_picture, resized
from .prediction import Prediction
from .suppression import Candidates, Limits, choose
from .vocabulary import Vocabulary


class Predictor:
    """``gridclip.predictor.Predictor`` without PyTorch: the same calls, the same detections.

    Several threads may use one predictor at once. A call works with the vocabulary that was set
    when it began.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ):
        """
        Args:
            path: what ``gridclip export`` wrote: an ``.onnx`` file for onnxruntime, or an ``.xml``
                file for OpenVINO.
            threads: None is the engine's choice.
            providers: of onnxruntime, the first choice first, such as
                ``["TensorrtExecutionProvider", "CUDAExecutionProvider"]``; the CPU takes what they
                leave. None: the CPU alone.

        Raises:
            FileNotFoundError: the file, or one that belongs beside it, is missing.
            ValueError: it is no exported detector, or one that gives raw scores; or a provider is
                not there.
            ImportError: its engine is not installed.
        """
        self._engine = open_engine(path, threads, providers)
        self._about = about = self._engine.description
        if about["output"] != "detections":
            raise ValueError(
                f"{path} gives the raw scores of all locations. Export it without --raw, or run it "
                "with gridclip_runtime.engines.open_engine."
            )
        self.limits = Limits(**about["limits"])
        base = about["base_names"]
        self._base = None if base is None else frozenset(base)
        self._trained: Vocabulary | None = None
        if about["words"] == "fixed":
            self._state = _State(tuple(about["names"]), {})
            return
        own = Vocabulary.from_json(about["vocabulary"])
        trained = about["training_vocabulary"]
        self._trained = own if trained is None else Vocabulary.from_json(trained)
        self._known = own
        self._use(own)

    @property
    def names(self) -> tuple[str, ...]:
        """The C categories' names; ``pred_classes`` are indices into them."""
        return self._state.names

    def set_vocabulary(self, vocabulary: str | os.PathLike | Sequence[str] | Vocabulary) -> None:
        """Detect other categories from now on. On an error the old vocabulary stays whole.

        Args:
            vocabulary: text embeddings, or their ``.safetensors`` or ``.npz`` file; or names that
                the exported file holds: those of the training and those it was exported with.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the words are a part of the graph, a name is not in the file, or the text
                embeddings are of another CLIP model.
        """
        if self._trained is None:
            raise ValueError(
                "The words of this file are fixed: export the detector without --fixed-words."
            )
        if isinstance(vocabulary, str | os.PathLike):
            vocabulary = Vocabulary.load(vocabulary)
        elif not isinstance(vocabulary, Vocabulary):
            vocabulary = self._look_up(vocabulary)
        digests = {vocabulary.clip_sha256, self._trained.clip_sha256} - {""}
        width, needed = (x.embeddings.shape[1] for x in (vocabulary, self._trained))
        if len(digests) > 1 or width != needed:
            raise ValueError(
                f"The text embeddings are {width} wide, of CLIP model "
                f"{vocabulary.clip_sha256[:8] or 'unknown'}; the detector needs {needed}, of "
                f"{self._trained.clip_sha256[:8] or 'unknown'}: make them with its CLIP model."
            )
        self._use(vocabulary)

    def _look_up(self, names: Sequence[str]) -> Vocabulary:
        assert self._trained is not None
        known = dict(zip(self._known.names, self._known.embeddings, strict=True))
        known |= dict(zip(self._trained.names, self._trained.embeddings, strict=True))
        if missing := [name for name in names if name not in known]:
            raise ValueError(
                f"The file holds no text embedding of '{missing[0]}' ({len(missing)} of "
                f"{len(names)} names). Where gridclip is installed, write them with gridclip embed "
                "and give its file."
            )
        rows = np.array([known[name] for name in names], np.float32)
        return Vocabulary(tuple(names), rows, self._trained.clip_sha256)

    def _use(self, vocabulary: Vocabulary) -> None:
        """The names of the training that are not asked for compete with those that are."""
        assert self._trained is not None
        names = vocabulary.names
        inputs = {"text_embeddings": np.ascontiguousarray(vocabulary.embeddings)}
        takes = self._about["inputs"]
        if "competitors" in takes:
            inputs["competitors"] = np.ascontiguousarray(self._trained.others(names))
        if "is_novel" in takes:
            weighed = set(self._about["weighed_as_base"])
            inputs["is_novel"] = np.array([name not in weighed for name in names])
        self._state = _State(names, inputs)

    @overload
    def __call__(self, pictures: Picture, **options: Any) -> Prediction: ...
    @overload
    def __call__(self, pictures: Iterable[Picture], **options: Any) -> list[Prediction]: ...
    def __call__(self, pictures: Any, **options: Any) -> Prediction | list[Prediction]:
        """Detect in one picture, or in several.

        Args:
            pictures: a file, a PIL image, or an (H, W, 3) uint8 RGB array; or several of these.
                Files and PIL images are turned upright as their EXIF orientation says.
            options: as in :meth:`stream`.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or it is not a picture.
        """
        if isinstance(pictures, str | os.PathLike | Image.Image | np.ndarray):
            return next(self.stream([pictures], **options))
        return list(self.stream(pictures, **options))

    def stream(
        self,
        pictures: Iterable[Picture],
        *,
        threshold: float | None = None,
        nms: float | None = None,
        max_detections: int | None = None,
    ) -> Iterator[Prediction]:
        """Detect in pictures one after the other; one of them is in memory.

        Args:
            threshold, nms, max_detections: see :class:`Limits`; None is the detector's.

        Raises:
            FileNotFoundError, ValueError: there is no such file, it is not a picture, or a limit is
                out of its range.
        """
        given = {"threshold": threshold, "nms": nms, "max_detections": max_detections}
        changed = {name: value for name, value in given.items() if value is not None}
        limits = self.limits._replace(**changed)  # type: ignore[arg-type]
        if not (0 <= limits.threshold <= 1 and 0 <= limits.nms <= 1 and limits.max_detections > 0):
            raise ValueError(f"{limits}: take numbers from 0 to 1, and at least 1 detection.")
        state = self._state
        return (self._detect(picture, limits, state) for picture in pictures)

    def inputs_of(self, picture: Picture) -> dict[str, np.ndarray]:
        """What the graph is given for a picture, by name. Raises as a call does."""
        seen = resized(read_picture(picture), self._about["resize"])
        return {"images": self._as_input(seen), **self._state.inputs}

    def _as_input(self, seen: np.ndarray) -> np.ndarray:
        return as_input(seen, self._about["multiple"], self._about["padding"])

    def _detect(self, picture: Picture, limits: Limits, state: "_State") -> Prediction:
        source = os.fspath(picture) if isinstance(picture, str | os.PathLike) else None
        pixels = read_picture(picture)
        seen = resized(pixels, self._about["resize"])
        outputs = self._engine.run({"images": self._as_input(seen), **state.inputs})
        found = Candidates(*(outputs[name][0] for name in ("boxes", "scores", "classes")))
        size, seen_size = pixels.shape[:2], seen.shape[:2]
        kept = choose(found, limits, seen_size, size)
        return Prediction(size, *kept, state.names, self._base, source)


class _State(NamedTuple):
    """What a call works with, all of one vocabulary."""

    names: tuple[str, ...]
    inputs: dict[str, np.ndarray]
