"""A command in a process of its own that writes to a log file and dies with its parent."""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_LIBC = ctypes.CDLL(None)  # loaded here, as little may be done between fork and exec
_PR_SET_PDEATHSIG = 1
_LOCK_SECONDS = 20.0


class CommandError(RuntimeError):
    """A command failed; names its log."""


class LoggedCommand:
    """Starts a command whose output is appended to ``log_file``.

    The file is locked until the command's process has ended, so that a second start never works in
    the same folder. Killed parents, whichever way, take the command with them.

    Args:
        command: program and arguments.
        log_file: its folder is made if need be.
        env: variables set beside those of this process.

    Raises:
        CommandError: another process holds the log.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike],
        log_file: str | os.PathLike,
        env: dict[str, str] | None = None,
    ):
        self.log_file = Path(log_file)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_file, "ab") as log:
            self._lock(log)
            self._shown = log.tell()
            # The process inherits the open file, and the lock with it.
            self._process = subprocess.Popen(
                [os.fspath(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def _lock(self, log) -> None:
        deadline = time.monotonic() + _LOCK_SECONDS  # a killed one needs a moment to end
        while True:
            try:
                return fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CommandError(
                        f"Another process is at work in {self.log_file.parent} (it holds "
                        f"{self.log_file.name}): wait for its end, or end it."
                    ) from None
                time.sleep(0.2)

    def poll(self) -> bool:
        """Whether it has ended well.

        Raises:
            CommandError: it has failed; quotes the log's last lines.
        """
        code = self._process.poll()
        if code:
            raise CommandError(f"exit code {code}; log: {self.log_file}\n{self._last_lines()}")
        return code == 0

    def terminate(self) -> None:
        """End it if it still runs, and wait for that."""
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def show_output(self, stream) -> None:
        """Write what the log has gained since the last call to a binary stream."""
        with open(self.log_file, "rb") as log:
            log.seek(self._shown)
            while chunk := log.read(1 << 16):
                stream.write(chunk)
            self._shown = log.tell()
        stream.flush()

    def _last_lines(self, count: int = 8) -> str:
        text = self.log_file.read_bytes()[-10_000:].decode(errors="replace")
        return "\n".join(f"  | {line}" for line in text.splitlines()[-count:])


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
