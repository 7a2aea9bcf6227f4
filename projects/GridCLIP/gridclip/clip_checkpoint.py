"""Reading CLIP weights: OpenAI's archives, state dicts, safetensors and open_clip checkpoints.

Everything comes out under OpenAI's parameter names in float32, so the rest of the project knows
one format only.
"""

import hashlib
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import clip
import torch
from clip.model import CLIP, ModifiedResNet, build_model, convert_weights
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler
from safetensors.torch import load_file
from torch import Tensor, nn

from gridclip.files import replacing

CLIP_PREFIX = "clip://"
RANDOM_PREFIX = "random-clip://"

# Sizes of OpenAI's ResNets; the head counts follow from the widths.
CLIP_RESNETS = {
    "RN50": dict(layers=(3, 4, 6, 3), width=64, embed_dim=1024, input_resolution=224),
    "RN101": dict(layers=(3, 4, 23, 3), width=64, embed_dim=512, input_resolution=224),
    "RN50x4": dict(layers=(4, 6, 10, 6), width=80, embed_dim=640, input_resolution=288),
    "RN50x16": dict(layers=(6, 8, 18, 8), width=96, embed_dim=768, input_resolution=384),
    "RN50x64": dict(layers=(3, 15, 36, 10), width=128, embed_dim=1024, input_resolution=448),
}
TEXT_WIDTHS = {"RN50": 512, "RN101": 512, "RN50x4": 640, "RN50x16": 768, "RN50x64": 1024}

# Scalars that OpenAI's archives store beside the weights.
_ARCHIVE_SCALARS = ("input_resolution", "context_length", "vocab_size")


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
        ValueError: the file is truncated, no checkpoint, or not CLIP's.
    """
    path = Path(PathManager.get_local_path(os.fspath(source)))
    if not path.is_file():
        raise FileNotFoundError(f"No CLIP weights at {path}.")
    state_dict = _strip_wrappers(_read_tensors(path), path)
    state_dict = {
        key: value.float() if value.is_floating_point() else value
        for key, value in state_dict.items()
        if key not in _ARCHIVE_SCALARS
    }
    if "visual.conv1.weight" not in state_dict:
        known = ", ".join(sorted(state_dict)[:3])
        raise ValueError(
            f"{path} holds no CLIP model: no 'visual.conv1.weight' among its "
            f"{len(state_dict)} entries ({known}, ...)."
        )
    sha256 = sha256_of_file(path)
    return CLIPCheckpoint(state_dict, _openai_name(sha256) or path.stem, sha256)


def is_clip_checkpoint(path: str | os.PathLike) -> bool:
    """Whether a local file is of a kind that :func:`read_clip_checkpoint` reads."""
    path = Path(path)
    if path.suffix == ".safetensors" or _is_torchscript(path):
        return True
    return "visual.conv1.weight" in _strip_wrappers(_read_tensors(path), path)


def load_clip(
    source: str | os.PathLike, device: str | torch.device = "cpu"
) -> tuple[CLIP, CLIPCheckpoint]:
    """Build the CLIP model that a checkpoint holds: float32, frozen, in evaluation mode.

    Raises:
        ValueError: the file holds no text encoder, or its entries do not fit together.
    """
    checkpoint = read_clip_checkpoint(source)
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
    return model.to(device).requires_grad_(False).eval(), checkpoint


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


def infer_resnet_sizes(state_dict: Mapping[str, Tensor]) -> dict:
    """Sizes of a ``ModifiedResNet`` from its state dict: layers, width, embed_dim,
    input_resolution."""

    def blocks(stage: int) -> int:
        return len({key.split(".")[1] for key in state_dict if key.startswith(f"layer{stage}.")})

    positions = state_dict["attnpool.positional_embedding"].shape[0] - 1
    return dict(
        layers=tuple(blocks(stage) for stage in (1, 2, 3, 4)),
        width=state_dict["layer1.0.conv1.weight"].shape[0],
        embed_dim=state_dict["attnpool.c_proj.weight"].shape[0],
        input_resolution=round(positions**0.5) * 32,
    )


def sha256_of_file(path: str | os.PathLike) -> str:
    """Hex sha256 digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _read_tensors(path: Path) -> Mapping:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if _is_torchscript(path):
            return torch.jit.load(path, map_location="cpu").state_dict()
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own exception for a damaged file
        size = path.stat().st_size
        raise ValueError(
            f"{path} ({size:,} bytes) can't be read as weights: it is truncated or no checkpoint. "
            f"Delete it and fetch it again. ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _strip_wrappers(loaded: Mapping, path: Path) -> dict[str, Tensor]:
    """Undo what training scripts wrap around a state dict: open_clip's and DDP's."""
    if isinstance(loaded, Mapping):
        loaded = loaded.get("state_dict", loaded)
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not a state dict.")
    entries = {str(key).removeprefix("module."): value for key, value in loaded.items()}
    tensors = {key: value for key, value in entries.items() if isinstance(value, Tensor)}
    if "attnpool.positional_embedding" in tensors:  # a ModifiedResNet's own state dict
        tensors = {f"visual.{key}": value for key, value in tensors.items()}
    return tensors


def _openai_name(sha256: str) -> str | None:
    # OpenAI's download addresses carry the digest as the last folder.
    names = {url.split("/")[-2]: name for name, url in clip.clip._MODELS.items()}
    return names.get(sha256)


class _CLIPPathHandler(PathHandler):
    """``clip://RN50``: OpenAI's file in the clip package's usual cache, downloaded once."""

    def _get_supported_prefixes(self):
        return [CLIP_PREFIX]

    def _get_local_path(self, path, force=False, **kwargs):
        name = path.removeprefix(CLIP_PREFIX)
        if name not in clip.clip._MODELS:
            raise ValueError(f"No CLIP model '{name}'; there are {clip.available_models()}.")
        url, root = clip.clip._MODELS[name], Path.home() / ".cache" / "clip"
        try:
            return clip.clip._download(url, str(root))
        except (OSError, RuntimeError) as error:  # RuntimeError: it has another sha256
            raise FileNotFoundError(
                f"{path} could not be downloaded ({error}). Put the file from {url} at "
                f"{root / Path(url).name}, or name a local file instead."
            ) from error

    def _open(self, path, mode="r", buffering=-1, **kwargs):
        return open(self._get_local_path(path), mode, buffering)

    def _isfile(self, path, **kwargs):
        return path.removeprefix(CLIP_PREFIX) in clip.clip._MODELS


class _RandomCLIPPathHandler(_CLIPPathHandler):
    """``random-clip://RN50``: an archive of that model's true sizes with random weights.

    For smoke tests and timings where OpenAI's weights are not at hand; made once a machine.
    """

    def _get_supported_prefixes(self):
        return [RANDOM_PREFIX]

    def _get_local_path(self, path, force=False, **kwargs):
        name = path.removeprefix(RANDOM_PREFIX)
        if name not in CLIP_RESNETS:
            raise ValueError(f"No CLIP ResNet '{name}'; there are {', '.join(CLIP_RESNETS)}.")
        archive = Path.home() / ".cache" / "gridclip" / f"random-{name}.pt"
        if not archive.is_file():
            sizes, text_width = CLIP_RESNETS[name], TEXT_WIDTHS[name]
            archive.parent.mkdir(parents=True, exist_ok=True)
            write_random_clip_archive(
                archive,
                embed_dim=sizes["embed_dim"],
                image_resolution=sizes["input_resolution"],
                vision_layers=sizes["layers"],
                vision_width=sizes["width"],
                transformer_width=text_width,
                transformer_heads=text_width // 64,
                transformer_layers=12,
            )
        return str(archive)

    def _isfile(self, path, **kwargs):
        return path.removeprefix(RANDOM_PREFIX) in CLIP_RESNETS


PathManager.register_handler(_CLIPPathHandler())
PathManager.register_handler(_RandomCLIPPathHandler())


def write_random_clip_archive(
    path: str | os.PathLike,
    *,
    embed_dim: int,
    image_resolution: int,
    vision_layers: tuple[int, int, int, int] | int,
    vision_width: int,
    transformer_width: int,
    transformer_heads: int,
    transformer_layers: int,
    vision_patch_size: int | None = None,
    seed: int = 0,
) -> None:
    """Write a TorchScript archive as OpenAI's (half precision, same entries), weights random.

    The batch norms of a ResNet are calibrated on noise, so that features and gradients have
    healthy sizes although nothing was learned. Arguments are those of ``clip.model.CLIP``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(
            embed_dim,
            image_resolution,
            vision_layers,
            vision_width,
            vision_patch_size,
            77,
            49408,
            transformer_width,
            transformer_heads,
            transformer_layers,
        )
        if isinstance(model.visual, ModifiedResNet):
            _calibrate_batch_norms(model.visual)
    for name, value in zip(_ARCHIVE_SCALARS, (image_resolution, 77, 49408), strict=True):
        vars(model).pop(name, None)  # a plain number in clip.model.CLIP, a tensor in the archives
        model.register_buffer(name, torch.tensor(value))
    convert_weights(model.eval())
    image = torch.zeros(1, 3, image_resolution, image_resolution)
    text = torch.zeros(1, 77, dtype=torch.long)
    inputs = {"encode_image": image, "encode_text": text, "forward": (image, text)}
    with torch.no_grad():
        archive = torch.jit.trace_module(model, inputs, check_trace=False)
    with replacing(Path(path)) as partial:
        archive.save(os.fspath(partial))


@torch.no_grad()
def _calibrate_batch_norms(resnet: ModifiedResNet) -> None:
    norms = [module for module in resnet.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.constant_(norm.weight, 1.0)  # CLIP starts the last one of a block at zero
        norm.momentum = None  # a plain average over the batches
    resnet.train()
    size = min(resnet.input_resolution, 64)
    for _ in range(2):
        x = torch.randn(8, 3, size, size)
        for module in (resnet.conv1, resnet.bn1, resnet.relu1, resnet.conv2, resnet.bn2):
            x = module(x)
        for module in (resnet.relu2, resnet.conv3, resnet.bn3, resnet.relu3, resnet.avgpool):
            x = module(x)
        for module in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
            x = module(x)
    resnet.eval()
