"""A trained detector on single pictures, with any vocabulary."""

import copy
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.structures import Instances
from detectron2.utils.colormap import colormap
from omegaconf import DictConfig
from PIL import Image

from gridclip.clip_weights import clip_file
from gridclip.engine.prepare import check_text_embeddings, prepare_text_embeddings
from gridclip.engine.train import Detector, build_inference_model, load_weights
from gridclip.evaluation.pictures import BoxVisualizer
from gridclip.modeling import TextClassifier
from gridclip.pictures import Picture, read_picture
from gridclip.settings import load_config
from gridclip.text import TextEmbeddings, Vocabulary, as_text_embeddings

logger = logging.getLogger("gridclip.predictor")


class Predictor:
    """Detects the categories of a vocabulary in one picture at a time.

    Several threads may call one predictor at once. A call works with the vocabulary that was set
    when it began.

    Attributes:
        cfg: the config in use.
        model: the detector, made fast as the config's ``train.inference`` says. A new vocabulary
            makes a new one, with the same weights.
    """

    def __init__(
        self,
        config: str | os.PathLike | DictConfig,
        weights: str | os.PathLike | None = None,
        *,
        vocabulary: Vocabulary | None = None,
        overrides: Sequence[str] = (),
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
        self.cfg = load_config(config, overrides)
        self.cfg.train.device = _choose_device(device, self.cfg.train.device)

        weights = os.fspath(self.cfg.train.init_checkpoint if weights is None else weights)
        clip_file(weights)  # it is there
        needs_trained = vocabulary is None or _uses_training_vocabulary(self.cfg)
        if needs_trained:
            _prepare_training_vocabulary(self.cfg)
        wanted = None if vocabulary is None else self._text_embeddings(vocabulary)
        model = _build_model(self.cfg, None if needs_trained else wanted)
        if wanted is not None:
            model.set_vocabulary(wanted)  # a closed-set classifier refuses
        trained = load_weights(self.cfg, model, weights)
        self.model = build_inference_model(self.cfg, trained)
        self.resize = T.AugmentationList(instantiate(self.cfg.dataloader.test.mapper.augmentations))

    @property
    def names(self) -> tuple[str, ...]:
        """The C categories' names; ``pred_classes`` are indices into them."""
        return self.model.classifier.names

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Detect other categories from now on. On an error the old vocabulary stays whole.

        Args:
            vocabulary: category names, which the config's ``clip.weights`` embed; text embeddings;
                their ``.safetensors`` file; or what ``gridclip.text.load_categories`` takes: a
                file of names, "coco", "lvis_v1", ...

        Raises:
            FileNotFoundError: the vocabulary's file or the CLIP checkpoint is missing.
            ValueError: no names, one twice, or text embeddings of another CLIP model.
        """
        text_embeddings = self._text_embeddings(vocabulary)
        model = _copy_classifier(self.model)  # calls in other threads keep theirs
        model.set_vocabulary(text_embeddings)
        self.model = model

    def __call__(self, image: Picture) -> Instances:
        """
        Args:
            image: a file, a PIL image, or an (H, W, 3) uint8 RGB array. The first two are turned
                upright as their EXIF orientation says.

        Returns:
            On the CPU, best first: ``pred_boxes`` XYXY in pixels of the upright image, ``scores``
            and ``pred_classes``.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or it is not a picture.
        """
        picture = read_picture(image)
        height, width = picture.shape[:2]
        resized = T.AugInput(picture)
        try:
            self.resize(resized)
        except ValueError as error:  # from PIL: one side would have no pixel left
            raise ValueError(f"A picture of {width} x {height} pixels is too thin.") from error
        tensor = torch.from_numpy(np.ascontiguousarray(resized.image.transpose(2, 0, 1))).float()
        inputs = {"image": tensor, "height": height, "width": width}
        instances = self.model([inputs])[0]["instances"].to("cpu")
        # Clones are ordinary tensors: what inference mode made can't be changed in place.
        fields = {name: value.clone() for name, value in instances.get_fields().items()}
        return Instances(instances.image_size, **fields)

    def draw(
        self, image: Picture, instances: Instances, score_threshold: float = 0.3
    ) -> Image.Image:
        """Draw the detections of a picture that reach ``score_threshold``, at its size. They must
        be of the present vocabulary."""
        instances = instances[instances.scores >= score_threshold]
        classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
        labels = [f"{self.names[c]} {s:.2f}" for c, s in zip(classes, scores, strict=True)]
        colors = colormap(rgb=True, maximum=1)
        visualizer = BoxVisualizer(read_picture(image))
        visualizer.overlay_instances(
            boxes=instances.pred_boxes,
            labels=[label.replace("$", r"\$") for label in labels],  # no formulas
            assigned_colors=[colors[c % len(colors)] for c in classes],
        )
        return Image.fromarray(visualizer.output.get_image())

    def _text_embeddings(self, vocabulary: Vocabulary) -> TextEmbeddings:
        clip, device = self.cfg.clip, self.cfg.train.device
        embedded = as_text_embeddings(vocabulary, clip.weights, clip.templates, device=device)
        if not len(embedded):
            raise ValueError("The vocabulary is empty: give at least one category.")
        _check_same_clip(self.cfg, embedded)
        return embedded


def _prepare_training_vocabulary(cfg: DictConfig) -> None:
    """Its names are ``clip.names``, or in its file of text embeddings; only without both of them
    the data are read."""
    if cfg.clip.names is not None:
        prepare_text_embeddings(cfg, None)
    elif Path(cfg.model.classifier.text_embeddings).is_file():
        check_text_embeddings(cfg)
    else:
        prepare_text_embeddings(cfg, instantiate(cfg.data.train))


def _uses_training_vocabulary(cfg: DictConfig) -> bool:
    """Whether other vocabularies need it: it says what is novel, and its names compete with theirs
    in the dense scores. GridCLIP can do without it where its file is missing."""
    if "novel_classes" in cfg.model.classifier:
        return True
    path = Path(cfg.model.classifier.text_embeddings)
    if cfg.model.get("dense_scores") is None or path.is_file():
        return path.is_file()
    logger.warning(
        f"{path}, the training vocabulary, is missing: its names can't compete with yours, so the "
        "scores of a vocabulary of few names are higher and tell less."
    )
    return False


def _build_model(cfg: DictConfig, text_embeddings: TextEmbeddings | None) -> Detector:
    """With the training vocabulary where ``text_embeddings`` is None."""
    model = {**cfg.model}  # a DictConfig can't hold text embeddings
    if text_embeddings is not None:
        model["classifier"] = {**cfg.model.classifier, "text_embeddings": text_embeddings}
    if "federated_weights" in model:
        model["federated_weights"] = None  # for training, and of the training vocabulary
    return instantiate(model).to(cfg.train.device)


def _copy_classifier(model: Detector) -> Detector:
    """A detector with a classifier of its own, all other modules and the weights shared."""
    shared = {
        id(module): module
        for module in model.modules()
        if not any(isinstance(part, TextClassifier) for part in module.modules())
    }
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, {**shared, **tensors})


def _choose_device(device: str | torch.device | None, configured: str) -> str:
    chosen = str(configured if device is None else device)
    if not chosen.startswith("cuda") or torch.cuda.is_available():
        return chosen
    if device is None:
        return "cpu"
    raise RuntimeError(f"No CUDA device is available for device '{chosen}': take 'cpu'.")


def _check_same_clip(cfg: DictConfig, vocabulary: TextEmbeddings) -> None:
    """Embeddings of another CLIP model mean nothing to the detector, even of the same width."""
    path = Path(cfg.model.classifier.text_embeddings)
    if not path.is_file():
        return
    both = vocabulary, TextEmbeddings.load(path)
    digests = {x.clip_sha256 for x in both}
    if "" not in digests and len(digests) > 1:
        own, needed = (f"{x.clip_model} (sha256 {x.clip_sha256[:8]}...)" for x in both)
        raise ValueError(
            f"The vocabulary's text embeddings are of CLIP model {own}, the training vocabulary's "
            f"at {path} of {needed}: use one model for both."
        )
