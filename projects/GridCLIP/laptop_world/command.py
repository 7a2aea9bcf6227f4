"""A command in a process of its own that writes to a log file and dies with its parent."""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_LIBC = ctypes.CDLL(None)  # loaded here, as little may be done between fork and exec
_PR_SET_PDEATHSIG = 1
_LOCK_SECONDS = 20.0


class CommandError(RuntimeError):
    """A command failed, or another process holds its log. The message names the log."""


def die_with_parent(signal_number: int = signal.SIGTERM) -> None:
    """Let Linux send this process a signal when its parent ends, however that ends.

    On other systems this does nothing.
    """
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal_number)


@contextmanager
def locked(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a file to append to, locked for this process and those that inherit the open file.

    Its folder is made if need be.

    Raises:
        CommandError: another process still holds the lock after a while.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        deadline = time.monotonic() + _LOCK_SECONDS  # a killed process needs a moment to end
        while not _try_to_lock(file):
            if time.monotonic() > deadline:
                raise CommandError(
                    f"Another process is at work in {path.parent} (it holds {path.name}): wait "
                    "for its end, or end it."
                )
            time.sleep(0.2)
        yield file


def _try_to_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def run_logged(
    command: Sequence[str | os.PathLike],
    log: BinaryIO,
    follow: Callable[[], None] = lambda: None,
) -> None:
    """Run a command to its end. It ends with this process, however that ends.

    Args:
        command: program and arguments.
        log: takes the command's output; of :func:`locked`. The command keeps the lock until it has
            ended, even if this process ends before, so that two never work in the same folder.
        follow: called several times a second, and once after the end.

    Raises:
        CommandError: the command failed; the message quotes the log's last lines.
    """
    process = subprocess.Popen(
        [os.fspath(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=die_with_parent,
    )
    try:
        while process.poll() is None:
            follow()
            time.sleep(0.1)
        follow()
    finally:
        end(process)
    if process.returncode:
        raise CommandError(
            f"exit code {process.returncode}; log: {log.name}\n{last_lines(log.name)}"
        )


def end(process: subprocess.Popen, signal_number: int = signal.SIGTERM) -> None:
    """Ask a process to end if it still runs, wait for that, and kill it if it does not."""
    process.send_signal(signal_number)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_lines(log_file: str | os.PathLike, count: int = 8) -> str:
    """The end of a log, indented for a message."""
    text = Path(log_file).read_bytes()[-10_000:].decode(errors="replace")
    return "\n".join(f"  | {line}" for line in text.splitlines()[-count:])


class Tail:
    """Shows what an open log gains: each call writes the new bytes to a binary stream."""

    def __init__(self, log: BinaryIO, stream: BinaryIO):
        self.path, self.shown, self.stream = log.name, log.tell(), stream

    def __call__(self) -> None:
        with open(self.path, "rb") as log:
            log.seek(self.shown)
            self.stream.write(log.read())
            self.shown = log.tell()
        self.stream.flush()
