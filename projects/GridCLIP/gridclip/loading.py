"""What a predictor needs of its config: the device, the training vocabulary, and the model."""

import logging
from pathlib import Path

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from gridclip.engine.precision import Detector
from gridclip.engine.prepare import check_text_embeddings, novel_names, prepare_text_embeddings
from gridclip.modeling import TextClassifier
from gridclip.text import TextEmbeddings

logger = logging.getLogger("gridclip.predictor")


def prepare_training_vocabulary(cfg: DictConfig) -> None:
    """Its names are ``clip.names``, or in its file of text embeddings; only without both of them
    the data are read."""
    if cfg.clip.names is not None:
        prepare_text_embeddings(cfg, None)
    elif Path(cfg.model.classifier.text_embeddings).is_file():
        check_text_embeddings(cfg)
    else:
        prepare_text_embeddings(cfg, instantiate(cfg.data.train))


def uses_training_vocabulary(cfg: DictConfig) -> bool:
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


def base_names(cfg: DictConfig, classifier: TextClassifier) -> frozenset[str] | None:
    """The names that pictures were annotated with in training; None if the config does not tell."""
    if "novel_classes" in cfg.model.classifier:
        return classifier.base_names
    novel = novel_names(cfg)
    return None if novel is None else frozenset(classifier.names) - novel


def build_model(cfg: DictConfig, text_embeddings: TextEmbeddings | None) -> Detector:
    """With the training vocabulary where ``text_embeddings`` is None."""
    model = {**cfg.model}  # a DictConfig can't hold text embeddings
    if text_embeddings is not None:
        model["classifier"] = {**cfg.model.classifier, "text_embeddings": text_embeddings}
    if "federated_weights" in model:
        model["federated_weights"] = None  # for training, and of the training vocabulary
    return instantiate(model).to(cfg.train.device)


def choose_device(device: str | torch.device | None, configured: str) -> str:
    chosen = str(configured if device is None else device)
    if not chosen.startswith("cuda") or torch.cuda.is_available():
        return chosen
    if device is None:
        return "cpu"
    raise RuntimeError(f"No CUDA device is available for device '{chosen}': take 'cpu'.")


def check_same_clip(vocabulary: TextEmbeddings, trained: TextEmbeddings, where: str) -> None:
    """Embeddings of another CLIP model mean nothing to the detector, even of the same width."""
    digests = {x.clip_sha256 for x in (vocabulary, trained)}
    if "" not in digests and len(digests) > 1:
        own, needed = (
            f"{x.clip_model} (sha256 {x.clip_sha256[:8]}...)" for x in (vocabulary, trained)
        )
        raise ValueError(
            f"The vocabulary's text embeddings are of CLIP model {own}, the training vocabulary's "
            f"{where} of {needed}: use one model for both."
        )
