"""A small file beside a piece of work: what it was made from, whether it is complete, its time."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gridclip.files import write_json

_HEARTBEAT_SECONDS = 5.0


class ChangedError(Exception):
    """What is there was made from something else than what is asked for now."""


class TaskRecord:
    """A JSON file beside a piece of work.

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
            ChangedError: the file has another identity; the message names what differs.
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
            raise ChangedError(f"{self.path} was made with other settings ({listed})")
        self.complete, self.seconds = found["complete"], found["seconds"]
        self.parts = found["parts"]

    def write(self) -> None:
        fields = ("complete", "seconds", "parts", "identity")
        write_json(self.path, {name: getattr(self, name) for name in fields}, indent=1)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Complete once the block ends without an exception.

        Its seconds are written on the way, so that a kill loses few.
        """
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
