"""A detector in one safetensors file: weights, the settings of inference, and the vocabulary."""

import copy
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip.model import CLIP
from detectron2.utils.registry import _convert_target_to_string, locate
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from gridclip.clip_weights import CLIPCheckpoint, build_clip
from gridclip.engine.checkpoint import difference
from gridclip.files import replacing
from gridclip.modeling import TextClassifier
from gridclip.text import TextEmbeddings

_FORMAT = "gridclip detector 1"
_HINT = "Weights of a checkpoint need their config: Predictor(config, weights)."
# Classes that a file may name. Only classes: calling one builds a part of a detector.
_ALLOWED = (
    "gridclip.modeling.",
    "gridclip.vild.",
    "detectron2.modeling.",
    "detectron2.layers.",
    "detectron2.data.transforms.",
    "torch.nn.modules.",
)


@dataclass(frozen=True, eq=False)
class DetectorFile:
    """What the file holds.

    Attributes:
        cfg: of :func:`inference_settings`.
        weights: the state dict of the detector that ``optimize_for_inference`` made.
        training_vocabulary: the vocabulary that the classifier is built with.
        vocabulary: the one in use; None if it is the same.
        base_names: names that training pictures were annotated with; None if not known.
        clip: the CLIP model that embeds names and examples, if it is in the file.
    """

    cfg: DictConfig
    weights: Mapping[str, Tensor]
    training_vocabulary: TextEmbeddings
    vocabulary: TextEmbeddings | None
    base_names: frozenset[str] | None
    clip: tuple[CLIP, CLIPCheckpoint] | None

    def write(self, path: str | os.PathLike) -> None:
        """Raises ValueError if the name does not end in .safetensors, or the config holds what a
        file can't."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"'{path}' must end in .safetensors.")
        settings = _as_json(OmegaConf.to_container(self.cfg), "the config")
        tensors = {f"detector.{key}": value for key, value in self.weights.items()}
        header: dict[str, Any] = {"settings": settings}
        vocabularies = {
            "training_vocabulary": self.training_vocabulary,
            "vocabulary": self.vocabulary,
        }
        for name, embeddings in vocabularies.items():
            if embeddings is not None:
                tensors[name] = embeddings.embeddings
                header[name] = embeddings.header()
        header["base_names"] = None if self.base_names is None else sorted(self.base_names)
        if self.clip is not None:
            model, checkpoint = self.clip
            tensors |= {f"clip.{key}": value for key, value in model.state_dict().items()}
            header["clip"] = {"model_id": checkpoint.model_id, "sha256": checkpoint.sha256}
        metadata = {"format": _FORMAT, **{k: json.dumps(v) for k, v in header.items()}}
        # Clones: safetensors refuses tensors that share memory or lie otherwise than in rows.
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        with replacing(path) as partial:
            partial.write_bytes(to_safetensors(tensors, metadata))

    @classmethod
    def read(cls, path: str | os.PathLike) -> "DetectorFile":
        """Raises FileNotFoundError, or ValueError if it is damaged, of something else, or names a
        class that is no part of a detector."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"No detector at {path}.")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except SafetensorError as error:
            message = f"{path} is not a whole safetensors file ({error}). {_HINT}"
            raise ValueError(message) from error
        if metadata.get("format") != _FORMAT:
            raise ValueError(
                f"{path} is no detector in one file, as Predictor.save writes it: its format is "
                f"'{metadata.get('format', 'not stated')}', not '{_FORMAT}'. {_HINT}"
            )
        try:
            header = {key: json.loads(value) for key, value in metadata.items() if key != "format"}
            base = header["base_names"]
            found = {
                name: TextEmbeddings(embeddings=tensors[name], **header[name])
                for name in ("training_vocabulary", "vocabulary")
                if name in header
            }
            settings = header["settings"]
            _check_classes(settings)
            clip = None
            if "clip" in header:
                state = _below("clip.", tensors)
                clip = build_clip(CLIPCheckpoint(state, **header["clip"]), path)
            return cls(
                cfg=OmegaConf.create(settings),
                weights=_below("detector.", tensors),
                training_vocabulary=found["training_vocabulary"],
                vocabulary=found.get("vocabulary"),
                base_names=None if base is None else frozenset(base),
                clip=clip,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged or was not written by Predictor.save: {error}"
            ) from error

    def load_into(self, model: nn.Module) -> None:
        """Give a model of these settings its weights. Raises ValueError if they do not fit."""
        needed = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        has = {key: tuple(value.shape) for key, value in self.weights.items()}
        if differing := difference(needed, has):
            count, key, needs, got = differing
            raise ValueError(
                f"{count} of the detector's tensors differ from what its settings describe; for "
                f"{key} the file has {got}, not {needs}. It is of another version of GridCLIP."
            )
        model.load_state_dict(dict(self.weights))


def inference_settings(cfg: DictConfig, classifier: TextClassifier) -> DictConfig:
    """The part of a config that inference needs, without references to anything else. Where it
    named data, it holds what they said."""
    cfg = copy.deepcopy(cfg)
    cfg.model.classifier.text_embeddings = None
    if "federated_weights" in cfg.model:
        cfg.model.federated_weights = None  # of the training alone
    if "novel_classes" in cfg.model.classifier:
        names = classifier.training_vocabulary.names
        base = classifier.base_names or ()
        cfg.model.classifier.novel_classes = [i for i, n in enumerate(names) if n not in base]
    resolved = {
        "model": cfg.model,
        "clip": {"weights": cfg.clip.weights, "templates": cfg.clip.templates},
        "train": {"device": cfg.train.device, "inference": cfg.train.inference},
    }
    resolved = {key: _resolved(cfg, value) for key, value in resolved.items()}
    augmentations = _resolved(cfg, cfg.dataloader.test.mapper.augmentations)
    resolved["dataloader"] = {"test": {"mapper": {"augmentations": augmentations}}}
    return OmegaConf.create(resolved, flags={"allow_objects": True})


def _resolved(cfg: DictConfig, node: Any) -> Any:
    if OmegaConf.is_config(node):
        return OmegaConf.to_container(node, resolve=True)
    return {key: _resolved(cfg, v) for key, v in node.items()} if isinstance(node, dict) else node


def _as_json(node: Any, where: str) -> Any:
    """Settings as JSON can hold them, classes by their names. Raises ValueError for others."""
    if isinstance(node, Mapping):
        return {key: _as_json(value, f"{where}.{key}") for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_as_json(value, f"{where}.{i}") for i, value in enumerate(node)]
    if inspect.isclass(node):
        node = _convert_target_to_string(node)
    if isinstance(node, str | int | float | None):
        return node
    raise ValueError(f"{where} holds a {type(node).__name__}, which a detector's file can't.")


def _targets(node: Any) -> Iterator[Any]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and "_target_" in node:
        yield node["_target_"]
    for child in children:
        yield from _targets(child)


def _check_classes(settings: dict) -> None:
    """Raise ValueError if the settings name anything but classes that are parts of a detector:
    ``instantiate`` calls whatever they name."""
    for target in _targets(settings):
        found = _locate(target) if isinstance(target, str) else None
        if not inspect.isclass(found) or not f"{found.__module__}.".startswith(_ALLOWED):
            raise ValueError(f"It names {target!r}, which is no part of a detector.")


def _locate(name: str) -> Any:
    # Only below these packages, as a look-up imports.
    if name.startswith(("gridclip.", "detectron2.", "torch.")):
        with suppress(ImportError):
            return locate(name)
    return None


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
