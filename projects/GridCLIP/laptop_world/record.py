"""What a piece of work was made from, whether it is complete, and the seconds that it took."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.data import MetadataCatalog
from omegaconf import DictConfig

from gridclip.clip_checkpoint import read_clip_checkpoint, sha256_of_file
from gridclip.evaluation.results import jsonable_config
from gridclip.files import write_json

_HEARTBEAT_SECONDS = 5.0


class ChangedError(Exception):
    """What is there was made from something else than is asked for now."""


class TaskRecord:
    """A small JSON file beside a piece of work.

    Attributes:
        complete: the work is done.
        seconds: that it took, over all starts.
        parts: those of them that are worth a name of their own, by name.
    """

    def __init__(self, path: str | os.PathLike, identity: dict):
        """
        Args:
            path: of the file, which may exist.
            identity: what the work depends on, as JSON.

        Raises:
            ChangedError: the file is of another identity; names what differs.
        """
        self.path = Path(path)
        self.identity = json.loads(json.dumps(identity))
        self.complete, self.seconds = False, 0.0
        self.parts: dict[str, float] = {}
        if not self.path.is_file():
            return
        found = json.loads(self.path.read_text(encoding="utf-8"))
        if differing := differing_keys(found["identity"], self.identity):
            listed = ", ".join(differing[:5]) + (", ..." if len(differing) > 5 else "")
            raise ChangedError(f"{self.path} is of other settings ({listed})")
        self.complete, self.seconds = found["complete"], found["seconds"]
        self.parts = found["parts"]

    def write(self) -> None:
        fields = ("complete", "seconds", "parts", "identity")
        write_json(self.path, {name: getattr(self, name) for name in fields}, indent=1)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Complete once the block ends without an exception. Its seconds are written on the way, so
        that a kill loses few."""
        before, start, ended = self.seconds, time.monotonic(), threading.Event()

        def count() -> None:
            self.seconds = before + time.monotonic() - start
            self.write()

        def keep_counting() -> None:
            while not ended.wait(_HEARTBEAT_SECONDS):
                count()

        self.write()
        thread = threading.Thread(target=keep_counting, daemon=True)
        thread.start()
        try:
            yield
            self.complete = True
        finally:
            ended.set()
            thread.join()
            count()

    def seconds_by_name(self, name: str) -> dict[str, float]:
        """The seconds of the parts, and what is left of the whole under ``name``."""
        return {name: self.seconds - sum(self.parts.values()), **self.parts}


def differing_keys(a, b, prefix: str = "") -> list[str]:
    """Dotted names of the leaves in which two trees of dicts differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        absent = object()
        return [
            name
            for key in sorted(a.keys() | b.keys())
            for name in differing_keys(a.get(key, absent), b.get(key, absent), f"{prefix}.{key}")
        ]
    return [] if a == b else [prefix.removeprefix(".")]


def run_identity(cfg: DictConfig) -> dict:
    """What the outcome of a config's run depends on, but for the code: settings, CLIP's weights and
    the annotations of training and test."""
    names = {cfg.dataloader[part].dataset.names for part in ("train", "test")}
    return {
        "config": jsonable_config(cfg),
        "clip_sha256": read_clip_checkpoint(cfg.clip.weights).sha256,
        "annotations_sha256": {
            name: sha256_of_file(MetadataCatalog.get(name).json_file) for name in sorted(names)
        },
    }
