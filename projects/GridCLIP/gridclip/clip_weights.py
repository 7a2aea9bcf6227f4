"""Reading CLIP weights: OpenAI's archives, state dicts, safetensors and open_clip checkpoints.

Everything comes out under OpenAI's parameter names in float32, so that the rest of the project
knows one format only.
"""

import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip.model import CLIP, build_model
from detectron2.utils.file_io import PathManager
from safetensors.torch import load_file
from torch import Tensor

from gridclip.clip_models import CLIP_RESNETS, openai_name
from gridclip.files import sha256_of_file

# Scalars that OpenAI's archives store beside the weights.
_ARCHIVE_SCALARS = ("input_resolution", "context_length", "vocab_size")

# What a numpy scalar, such as a best AP, is pickled as by numpy 2 and 1. It runs no code.
_scalar: Any = np.float64().__reduce__()[0]
_NUMPY_SCALARS: list[Any] = [np.dtype, *{type(np.dtype(code)) for code in "?bhilqBHILQefd"}]
_NUMPY_SCALARS += [(_scalar, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")]


@dataclass(frozen=True)
class CLIPCheckpoint:
    """The weights of one CLIP model.

    Attributes:
        state_dict: OpenAI's parameter names ("visual.conv1.weight", ...) to tensors; floating
            point ones are float32.
        model_id: the name of OpenAI's model if the file is one of theirs, else the file's stem.
        sha256: hex digest of the file.
    """

    state_dict: dict[str, Tensor]
    model_id: str
    sha256: str


def read_clip_checkpoint(source: str | os.PathLike) -> CLIPCheckpoint:
    """Read CLIP weights from a file or from ``clip://NAME`` (downloaded once, sha256 checked).

    Args:
        source: a TorchScript archive as OpenAI publishes them, a state dict saved by
            ``torch.save`` (also inside open_clip's ``{"state_dict": ...}``), a ``.safetensors``
            file, or ``clip://`` and a name of ``clip.available_models()``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, not a checkpoint, or not CLIP's.
    """
    path = clip_file(source)
    tensors = bare_state_dict(read_weights(path), path)
    if (checkpoint := as_clip_checkpoint(tensors, path)) is None:
        known = ", ".join(sorted(tensors)[:3])
        raise ValueError(
            f"{path} holds no CLIP model: no 'visual.conv1.weight' among its "
            f"{len(tensors)} entries ({known}, ...)."
        )
    return checkpoint


def clip_file(source: str | os.PathLike) -> Path:
    """The local file of weights, CLIP's or a detector's, downloaded if need be. Raises
    FileNotFoundError if there is none."""
    path = Path(PathManager.get_local_path(os.fspath(source)))
    if not path.is_file():
        raise FileNotFoundError(f"No weights at '{path}'.")
    return path


def as_clip_checkpoint(tensors: dict[str, Tensor], path: Path) -> CLIPCheckpoint | None:
    """The CLIP model among a file's tensors, if they are one."""
    if "attnpool.positional_embedding" in tensors:  # a ModifiedResNet's own state dict
        tensors = {f"visual.{key}": value for key, value in tensors.items()}
    if "visual.conv1.weight" not in tensors:
        return None
    state_dict = {
        key: value.float() if value.is_floating_point() else value
        for key, value in tensors.items()
        if key not in _ARCHIVE_SCALARS
    }
    sha256 = sha256_of_file(path)
    return CLIPCheckpoint(state_dict, openai_name(sha256) or path.stem, sha256)


def load_clip(
    source: str | os.PathLike, device: str | torch.device = "cpu"
) -> tuple[CLIP, CLIPCheckpoint]:
    """Build the CLIP model that a checkpoint holds: float32, frozen, in evaluation mode. The
    tensors of the checkpoint that is returned are the model's.

    Raises:
        ValueError: the file holds no text encoder, or its entries do not fit together.
    """
    model, checkpoint = build_clip(read_clip_checkpoint(source), source)
    model.to(device)
    return model, replace(checkpoint, state_dict=model.state_dict())


def build_clip(
    checkpoint: CLIPCheckpoint, source: str | os.PathLike
) -> tuple[CLIP, CLIPCheckpoint]:
    """The model of a checkpoint, on the CPU; the rest as in :func:`load_clip`."""
    state_dict = dict(checkpoint.state_dict)
    state_dict.pop("logit_bias", None)  # open_clip's SigLIP-style bias, not part of clip.model.CLIP
    try:
        # build_model infers all sizes but rounds to half precision: load once more after it.
        model = build_model(dict(state_dict)).float()
        model.load_state_dict(state_dict)
    except (KeyError, RuntimeError, AssertionError) as error:
        raise ValueError(
            f"{source} does not hold a whole CLIP model that clip.model.CLIP can take: {error}"
        ) from error
    model = model.requires_grad_(False).eval()
    return model, replace(checkpoint, state_dict=model.state_dict())


def resnet_state_dict(checkpoint: CLIPCheckpoint) -> dict[str, Tensor]:
    """The weights of the image encoder under ``clip.model.ModifiedResNet``'s own names.

    Raises:
        ValueError: the image encoder is a vision transformer.
    """
    if "visual.layer1.0.conv1.weight" not in checkpoint.state_dict:
        raise ValueError(
            f"CLIP model '{checkpoint.model_id}' has a vision transformer as image encoder; "
            f"a ResNet is needed here: one of {', '.join(CLIP_RESNETS)}."
        )
    return {
        key.removeprefix("visual."): value
        for key, value in checkpoint.state_dict.items()
        if key.startswith("visual.")
    }


def read_weights(path: Path) -> Any:
    """What a TorchScript archive, a ``.safetensors`` file or a file of ``torch.save`` holds. Raises
    ValueError if it is damaged, or if anything in it could run code."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if _is_torchscript(path):
            return torch.jit.load(path, map_location="cpu").state_dict()
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own exception for a damaged file
        if foreign := re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error)):
            raise ValueError(
                f"{path} can't be read as weights: beside tensors it holds {foreign[1]}, which may "
                "run code when read. Load it where you trust it, and save its state dict alone."
            ) from error
        size = path.stat().st_size
        raise ValueError(
            f"{path} ({size:,} bytes) can't be read as weights: it is truncated, or not a "
            f"checkpoint. Fetch it again. ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def bare_state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    """A file's tensors without what training scripts wrap around them: open_clip's "state_dict",
    detectron2's "model", DDP's "module.". Raises ValueError if there is no state dict."""
    if isinstance(loaded, Mapping):
        loaded = loaded.get("state_dict", loaded.get("model", loaded))
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not a state dict.")
    return {str(k).removeprefix("module."): v for k, v in loaded.items() if isinstance(v, Tensor)}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
