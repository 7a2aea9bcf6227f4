"""OpenAI's CLIP models by name: ``clip://RN50`` is a path for detectron2's ``PathManager``."""

from pathlib import Path
from typing import Any

import clip
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

# Sizes of OpenAI's ResNets; the head counts follow from the widths.
CLIP_RESNETS: dict[str, dict[str, Any]] = {
    "RN50": dict(layers=(3, 4, 6, 3), width=64, embed_dim=1024, input_resolution=224),
    "RN101": dict(layers=(3, 4, 23, 3), width=64, embed_dim=512, input_resolution=224),
    "RN50x4": dict(layers=(4, 6, 10, 6), width=80, embed_dim=640, input_resolution=288),
    "RN50x16": dict(layers=(6, 8, 18, 8), width=96, embed_dim=768, input_resolution=384),
    "RN50x64": dict(layers=(3, 15, 36, 10), width=128, embed_dim=1024, input_resolution=448),
}


class CLIPPathHandler(PathHandler):
    """``clip://RN50``: OpenAI's file in the clip package's usual cache, downloaded once."""

    prefix = "clip://"
    models = clip.clip._MODELS

    def _get_supported_prefixes(self) -> list[str]:
        return [self.prefix]

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return path.removeprefix(self.prefix) in self.models

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return open(self._get_local_path(path), mode, buffering)

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name = path.removeprefix(self.prefix)
        if name not in self.models:
            raise ValueError(f"No CLIP model '{name}'; there are {', '.join(self.models)}.")
        return self._fetch(name)

    def _fetch(self, name: str) -> str:
        url, root = self.models[name], Path.home() / ".cache" / "clip"
        try:
            return clip.clip._download(url, str(root))
        except (OSError, RuntimeError) as error:  # RuntimeError: it has another sha256
            raise FileNotFoundError(
                f"{self.prefix}{name} could not be downloaded ({error}). Put the file from {url} "
                f"at {root / Path(url).name}, or name a local file instead."
            ) from error


PathManager.register_handler(CLIPPathHandler())


def openai_sha256(name: str) -> str | None:
    """The digest of the file of OpenAI's model of this name, if there is one. Fetches nothing."""
    url = CLIPPathHandler.models.get(name)
    return url and url.split("/")[-2]  # the addresses carry it as their last folder


def openai_name(sha256: str) -> str | None:
    """The name of OpenAI's model whose file has this digest, if there is one."""
    return {openai_sha256(name): name for name in CLIPPathHandler.models}.get(sha256)
