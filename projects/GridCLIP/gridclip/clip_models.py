"""OpenAI's CLIP models by name: ``clip://RN50`` is a path for detectron2's ``PathManager``."""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import clip
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler, file_lock
from portalocker import LockException

from gridclip.files import sha256_of_file

logger = logging.getLogger("detectron2.gridclip")

# Sizes of OpenAI's ResNets; the head counts follow from the widths.
CLIP_RESNETS: dict[str, dict[str, Any]] = {
    "RN50": dict(layers=(3, 4, 6, 3), width=64, embed_dim=1024, input_resolution=224),
    "RN101": dict(layers=(3, 4, 23, 3), width=64, embed_dim=512, input_resolution=224),
    "RN50x4": dict(layers=(4, 6, 10, 6), width=80, embed_dim=640, input_resolution=288),
    "RN50x16": dict(layers=(6, 8, 18, 8), width=96, embed_dim=768, input_resolution=384),
    "RN50x64": dict(layers=(3, 15, 36, 10), width=128, embed_dim=1024, input_resolution=448),
}


class CLIPPathHandler(PathHandler):
    """``clip://RN50``: OpenAI's file in the clip package's usual cache, downloaded once, also where
    many processes of several nodes ask for it."""

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
        url = self.models[name]
        target = Path.home() / ".cache" / "clip" / Path(url).name
        try:
            if not _is_whole(target, url):
                with _one_after_another(target):
                    _download(url, target)
        except (OSError, RuntimeError) as error:  # RuntimeError: it has another sha256
            raise FileNotFoundError(
                f"{self.prefix}{name} could not be downloaded ({error}). Put the file from {url} "
                f"at {target}, or name a local file instead."
            ) from error
        return str(target)


PathManager.register_handler(CLIPPathHandler())


@contextmanager
def _one_after_another(target: Path) -> Iterator[None]:
    """Wait until no other process fetches ``target``; a killed one's lock is gone with it.

    The lock is flock's. Linux hands it on to an NFS server, so it holds between nodes, unless the
    folder is mounted with nolock or local_lock. Without a lock each process fetches its own copy,
    and the last one stays.
    """
    lock = file_lock(str(target))
    try:
        lock.acquire()
    except (LockException, OSError) as error:
        logger.warning(f"No lock beside {target} ({error}): other processes may fetch it, too")
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _download(url: str, target: Path) -> None:
    """Fetch a file beside its place, check it, and move it there, unless another process has."""
    prefix = f".partial-{target.name}-"
    for left in target.parent.glob(f"{prefix}*"):  # by a fetch that was killed
        if time.time() - left.stat().st_mtime > 24 * 3600:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as folder:
        # On NFS a name that was missing may seem so for a minute, unless the folder has changed.
        if not _is_whole(target, url):
            os.replace(clip.clip._download(url, folder), target)


def _is_whole(path: Path, url: str) -> bool:
    return path.is_file() and sha256_of_file(path) == _sha256_in(url)


def _sha256_in(url: str) -> str:
    return url.split("/")[-2]  # OpenAI's addresses carry it as their last folder


def openai_sha256(name: str) -> str | None:
    """The digest of the file of OpenAI's model of this name, if there is one. Fetches nothing."""
    url = CLIPPathHandler.models.get(name)
    return url and _sha256_in(url)


def openai_name(sha256: str) -> str | None:
    """The name of OpenAI's model whose file has this digest, if there is one."""
    return {openai_sha256(name): name for name in CLIPPathHandler.models}.get(sha256)
