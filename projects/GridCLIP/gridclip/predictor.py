"""A trained detector on any pictures, with any vocabulary."""

import copy
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from omegaconf import DictConfig
from PIL import Image

from gridclip.clip_weights import clip_file
from gridclip.detector_file import DetectorFile, inference_settings
from gridclip.drawing import draw_prediction
from gridclip.engine.precision import Detector, build_inference_model, use_configured_precision
from gridclip.engine.train import load_weights
from gridclip.loading import (
    base_names,
    build_model,
    check_same_clip,
    choose_device,
    prepare_training_vocabulary,
    uses_training_vocabulary,
)
from gridclip.modeling import TextClassifier, optimize_for_inference
from gridclip.pictures import Picture, find_pictures, read_picture
from gridclip.prediction import Names, Prediction
from gridclip.queries import Queries, QueryEncoder
from gridclip.settings import load_config
from gridclip.text import TextEmbeddings

Pictures = str | os.PathLike | Iterable[Picture]


class Limits(NamedTuple):
    """Which detections are kept; None is the config's value.

    Attributes:
        threshold: the least score.
        nms: of two boxes of a category that overlap by more than this IoU the better one is kept.
        max_detections: of a picture.
    """

    threshold: float | None = None
    nms: float | None = None
    max_detections: int | None = None


class Predictor:
    """Detects the categories of a vocabulary in pictures.

    Several threads may use one predictor at once. A call works with the vocabulary that was set
    when it began.

    Attributes:
        cfg: the config in use; of a predictor from one file, the part that inference needs.
        queries: CLIP for words and examples, loaded when it is first needed and then kept.
    """

    def __init__(
        self,
        config: str | os.PathLike | DictConfig,
        weights: str | os.PathLike | None = None,
        *,
        vocabulary: Queries | None = None,
        overrides: Iterable[str] = (),
        device: str | torch.device | None = None,
    ):
        """
        Args:
            config: a LazyConfig or its file, as ``train_net.py`` takes it.
            weights: a checkpoint of the trained detector; None is ``train.init_checkpoint``. Of
                a run that averages its weights, the average is used, as in evaluation.
            vocabulary: as in :meth:`set_vocabulary`. None is the training vocabulary, whose
                text-embedding file is computed if it is missing.
            overrides: of the config, as "key=value"; a setting must exist.
            device: None is the config's, or the CPU where there is no CUDA.

        Raises:
            FileNotFoundError: the config, the weights or the vocabulary's file is missing.
            ValueError: an override or the weights do not fit the config, or the vocabulary does not
                fit the weights.
            RuntimeError: the device is not there.
        """
        self.cfg = cfg = load_config(config, tuple(overrides))
        cfg.train.device = choose_device(device, cfg.train.device)
        self.queries = QueryEncoder(cfg.clip.weights, cfg.clip.templates, cfg.train.device)

        weights = os.fspath(cfg.train.init_checkpoint if weights is None else weights)
        clip_file(weights)  # it is there
        needs_trained = vocabulary is None or uses_training_vocabulary(cfg)
        if needs_trained:
            prepare_training_vocabulary(cfg)
        path = Path(cfg.model.classifier.text_embeddings)
        # With where it is from, for messages.
        self._trained = (TextEmbeddings.load(path), f"at {path}") if path.is_file() else None
        wanted = None if vocabulary is None else self._embed(vocabulary)
        model = build_model(cfg, None if needs_trained else wanted)
        base = base_names(cfg, model.classifier) if needs_trained else None
        if wanted is not None:
            model.set_vocabulary(wanted)  # a closed-set classifier refuses
        self._use(build_inference_model(cfg, load_weights(cfg, model, weights)), base)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        device: str | torch.device | None = None,
        clip: str | os.PathLike | None = None,
    ) -> "Predictor":
        """A predictor from the one file that :meth:`save` wrote: the same detections bit for bit,
        on the same kind of machine. Nothing in it is run as code.

        Args:
            path: the ``.safetensors`` file.
            device: None is CUDA where it is there and the predictor saved was on it, else the CPU.
            clip: CLIP's weights, for names that the file does not hold. None: those in the file,
                or where the file says that they lay.

        Raises:
            FileNotFoundError, ValueError: it is missing, damaged, or of something else.
            RuntimeError: the device is not there.
        """
        file = DetectorFile.read(path)
        self = cls.__new__(cls)
        self.cfg = file.cfg
        self._trained = None
        self.cfg.train.device = choose_device(device, self.cfg.train.device)
        sources = (clip, file.clip, self.cfg.clip.weights)
        source = next((source for source in sources if source is not None), None)
        self.queries = QueryEncoder(source, self.cfg.clip.templates, self.cfg.train.device)
        model = build_model(self.cfg, file.training_vocabulary)
        model = optimize_for_inference(model, compile=self.cfg.train.inference.compile)
        file.load_into(model)
        use_configured_precision(self.cfg, model)
        if file.vocabulary is not None:
            model.set_vocabulary(file.vocabulary)
        self._use(model, file.base_names)
        return self

    def save(self, path: str | os.PathLike, *, with_clip: bool = False) -> None:
        """Write weights, config and vocabulary to one ``.safetensors`` file.

        Args:
            path: of the file, which is replaced once all is written.
            with_clip: CLIP's weights too, so that other names and examples can be embedded where
                they are not at hand.

        Raises:
            ValueError: the name does not end in .safetensors, or the config holds something that
                is not text, a number or a known class.
        """
        state = self._state
        DetectorFile(
            cfg=inference_settings(self.cfg, state.model.classifier),
            weights=state.model.state_dict(),
            training_vocabulary=state.model.classifier.training_vocabulary,
            vocabulary=state.model.classifier.vocabulary,
            base_names=state.names.base,
            clip=self.queries.clip() if with_clip else None,
        ).write(path)

    def _use(self, model: Detector, base: frozenset[str] | None) -> None:
        self._state = _State(model, Names(model.classifier.names, base), {})
        if self._trained is None:
            self._trained = model.classifier.training_vocabulary, "of the detector"
        self.resize = T.AugmentationList(instantiate(self.cfg.dataloader.test.mapper.augmentations))

    @property
    def model(self) -> Detector:
        """The detector, made fast as the config's ``train.inference`` says. A new vocabulary makes
        a new one, with the same weights."""
        return self._state.model

    @property
    def names(self) -> tuple[str, ...]:
        """The C categories' names; ``pred_classes`` are indices into them."""
        return self._state.names.names

    @property
    def base_names(self) -> frozenset[str] | None:
        """Names that training pictures were annotated with; None if that is not known."""
        return self._state.names.base

    def set_vocabulary(self, vocabulary: Queries) -> None:
        """Detect other categories from now on. On an error the old vocabulary stays whole.

        Args:
            vocabulary: one of

                * category names;
                * what ``gridclip.text.load_categories`` takes: a file of names, "coco", ...;
                * text embeddings, or their ``.safetensors`` file;
                * by label the words and examples that stand for it, alone or together:
                  ``{"helmet": ["hard hat", "safety helmet"], "cup": [("desk.jpg", (x0, y0, x1,
                  y1))]}``, boxes in pixels.

        Raises:
            FileNotFoundError: the vocabulary's file, a picture or the CLIP checkpoint is missing.
            ValueError: no names, one twice, text embeddings of another CLIP model, or an example
                without a picture or an area.
        """
        text_embeddings = self._embed(vocabulary)
        state = self._state
        model = _copy_classifier(state.model)  # calls in other threads keep theirs
        model.set_vocabulary(text_embeddings)
        self._state = _State(model, Names(model.classifier.names, state.names.base), {})

    def with_vocabulary(self, vocabulary: Queries) -> "Predictor":
        """Another predictor with a vocabulary of its own, say for one of several users. It shares
        the weights and CLIP with this one, which keeps its vocabulary.

        Args and errors are those of :meth:`set_vocabulary`.
        """
        other = copy.copy(self)
        other.set_vocabulary(vocabulary)
        return other

    @overload
    def __call__(self, pictures: Picture, **options: Any) -> Prediction: ...
    @overload
    def __call__(self, pictures: Iterable[Picture], **options: Any) -> list[Prediction]: ...
    def __call__(self, pictures: Any, **options: Any) -> Prediction | list[Prediction]:
        """Detect in one picture, or in several.

        Args:
            pictures: a file, a PIL image, or an (H, W, 3) uint8 RGB array; or a folder, a list or
                a generator of these. Files and PIL images are turned upright as their EXIF
                orientation says.
            options: as in :meth:`stream`.

        Returns:
            Of one picture a :class:`Prediction` on the CPU, best first; of several a list of them.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or it is not a picture.
        """
        is_file = isinstance(pictures, str | os.PathLike) and not os.path.isdir(pictures)
        if is_file or isinstance(pictures, Image.Image | np.ndarray):
            return next(self.stream([pictures], **options))
        return list(self.stream(pictures, **options))

    def stream(
        self,
        pictures: Pictures,
        *,
        threshold: float | None = None,
        nms: float | None = None,
        max_detections: int | None = None,
        batch_size: int | None = None,
        on_error: Callable[[Picture, Exception], None] | None = None,
    ) -> Iterator[Prediction]:
        """Detect in pictures one after the other, however many there are: only those of a batch are
        in memory.

        Args:
            pictures: a folder, or files, PIL images or (H, W, 3) uint8 RGB arrays.
            threshold, nms, max_detections: see :class:`Limits`.
            batch_size: pictures that the detector gets at once, at most: a batch has neighbours of
                one size, as padding to the size of a larger one would change their scores. None: 1
                on a CPU, 8 on a GPU.
            on_error: is given what can't be read as a picture, and why, and the others go on. None:
                the error is raised.

        Raises:
            FileNotFoundError, ValueError: there is no such file, it is not a picture, or a limit is
                out of its range.
        """
        state, limits = self._state, Limits(threshold, nms, max_detections)
        _check_limits(limits, batch_size)
        model = state.limited(limits)
        if isinstance(pictures, str | os.PathLike):
            pictures = find_pictures([os.fspath(pictures)])
        if batch_size is None:
            batch_size = 1 if self.cfg.train.device == "cpu" else 8
        batches = self._batches(pictures, batch_size, on_error)
        return (found for batch in batches for found in _detect(model, state.names, batch))

    def _batches(
        self,
        pictures: Iterable[Picture],
        batch_size: int,
        on_error: Callable[[Picture, Exception], None] | None,
    ) -> Iterator["_Batch"]:
        batch: _Batch = []
        for picture in pictures:
            try:
                inputs = self.prepare(picture)
            except (FileNotFoundError, ValueError) as error:
                if batch:  # what came before it is not lost
                    yield batch
                    batch = []
                if on_error is None:
                    raise
                on_error(picture, error)
                continue
            if batch and inputs["image"].shape != batch[-1][0]["image"].shape:
                yield batch
                batch = []
            batch.append((inputs, _file_name(picture)))
            if len(batch) == batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def prepare(self, picture: Picture) -> dict:
        """A picture as the detector takes it: "image", (3, H, W) float32 RGB of the size that the
        network sees, and the picture's own "height" and "width"."""
        pixels = read_picture(picture)
        height, width = pixels.shape[:2]
        resized = T.AugInput(pixels)
        try:
            self.resize(resized)
        except ValueError as error:  # from PIL: one side would have no pixel left
            reason = f"A picture of {width} x {height} pixels is too thin."
            name = _file_name(picture)
            raise ValueError(f"{name}: {reason}" if name else reason) from error
        tensor = torch.from_numpy(np.ascontiguousarray(resized.image.transpose(2, 0, 1))).float()
        return {"image": tensor, "height": height, "width": width}

    def draw(
        self, image: Picture, prediction: Prediction, score_threshold: float = 0.3
    ) -> Image.Image:
        """Draw the detections of a picture that reach ``score_threshold``. A picture with less than
        640 pixels a side is enlarged."""
        return draw_prediction(image, prediction.above(score_threshold))

    def _embed(self, vocabulary: Queries) -> TextEmbeddings:
        embedded = self.queries.embed(vocabulary)
        if not len(embedded):
            raise ValueError("The vocabulary is empty: give at least one category.")
        if self._trained is not None:
            check_same_clip(embedded, *self._trained)
        return embedded


class _State(NamedTuple):
    """What a call works with, all of one vocabulary."""

    model: Detector
    names: Names
    views: dict[Limits, Detector]

    def limited(self, limits: Limits) -> Detector:
        """The model with other limits, its weights shared."""
        if limits == Limits():
            return self.model
        if (view := self.views.get(limits)) is None:
            view = _copy_classifier(self.model)
            view.set_limits(**{k: v for k, v in limits._asdict().items() if v is not None})
            if len(self.views) > 8:  # a slider has many positions
                self.views.clear()
            self.views[limits] = view
        return view


_Batch = list[tuple[dict, str | None]]  # pictures as the detector takes them, and their files


def _detect(model: Detector, names: Names, batch: _Batch) -> Iterator[Prediction]:
    inputs, sources = zip(*batch, strict=True)
    for output, source in zip(model(list(inputs)), sources, strict=True):
        found = output["instances"].to("cpu")
        # Clones are ordinary tensors: what inference mode made can't be changed in place.
        fields = {name: value.clone() for name, value in found.get_fields().items()}
        yield Prediction(found.image_size, vocabulary=names, source=source, **fields)


def _file_name(picture: Picture) -> str | None:
    return os.fspath(picture) if isinstance(picture, str | os.PathLike) else None


def _check_limits(limits: Limits, batch_size: int | None) -> None:
    for name in ("threshold", "nms"):
        value = getattr(limits, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}: take a number from 0 to 1.")
    for name, count in (("max_detections", limits.max_detections), ("batch_size", batch_size)):
        if count is not None and count < 1:
            raise ValueError(f"{name} is {count}: take at least 1.")


def _copy_classifier(model: Detector) -> Detector:
    """A detector with a classifier of its own, all other modules and the weights shared."""
    shared = {
        id(module): module
        for module in model.modules()
        if not any(isinstance(part, TextClassifier) for part in module.modules())
    }
    own = model.classifier
    constants = [*model.parameters(), *model.buffers(), own.vocabulary, own.training_vocabulary]
    constants.append(getattr(model, "_folded", None))
    return copy.deepcopy(model, {**shared, **{id(x): x for x in constants}})
