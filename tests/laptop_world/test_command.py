import io
import os
import signal
import subprocess
import sys
import time

import pytest

from laptop_world import command as module
from laptop_world.command import CommandError, Tail, locked, run_logged


def test_output_goes_to_the_log_and_is_shown_once(tmp_path):
    path = tmp_path / "new" / "log.txt"
    shown = io.BytesIO()
    for text in ("one", "two"):
        with locked(path) as log:
            tail = Tail(log, shown)
            run_logged([sys.executable, "-c", f"print({text!r})"], log, tail)
            tail()
    assert path.read_text() == "one\ntwo\n"
    assert shown.getvalue() == b"one\ntwo\n"


def test_output_is_followed_while_the_command_runs(tmp_path):
    """The command ends only after its output was seen."""
    seen = tmp_path / "seen"
    code = (
        "import os, time\n"
        "print('here')\n"
        f"while not os.path.exists({str(seen)!r}): time.sleep(0.01)\n"
    )

    def follow():
        if (tmp_path / "log.txt").read_text() == "here\n":
            seen.touch()

    with locked(tmp_path / "log.txt") as log:
        run_logged([sys.executable, "-c", code], log, follow)


def test_a_failure_names_the_log_and_quotes_its_end(tmp_path):
    with locked(tmp_path / "log.txt") as log:
        with pytest.raises(
            CommandError, match=r"exit code 1; log: .*log\.txt(.|\n)*ZeroDivisionError"
        ):
            run_logged([sys.executable, "-c", "1 / 0"], log)


def test_the_log_of_a_running_command_is_refused(tmp_path, monkeypatch):
    """Also when the process that locked it has closed it."""
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.1)
    with locked(tmp_path / "log.txt") as log:
        running = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"], stdout=log
        )
    with pytest.raises(CommandError, match="Another process is at work"):
        with locked(tmp_path / "log.txt"):
            pass
    module.end(running)
    with locked(tmp_path / "log.txt"):
        pass


def test_an_exception_ends_the_command(tmp_path):
    def interrupt():
        if (tmp_path / "log.txt").read_text().endswith("\n"):
            raise KeyboardInterrupt

    code = "import os, time; print(os.getpid()); time.sleep(60)"
    with locked(tmp_path / "log.txt") as log, pytest.raises(KeyboardInterrupt):
        run_logged([sys.executable, "-c", code], log, interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "log.txt").read_text()), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a command outlives a killed parent")
def test_a_killed_parent_takes_the_command_with_it(tmp_path):
    code = (
        "import sys\n"
        "from laptop_world.command import locked, run_logged\n"
        "child = 'import os, time; print(os.getpid()); time.sleep(60)'\n"
        "with locked(sys.argv[1]) as log:\n"
        "    run_logged([sys.executable, '-c', child], log)\n"
    )
    log = tmp_path / "log.txt"
    parent = subprocess.Popen([sys.executable, "-c", code, str(log)])
    while not (log.is_file() and log.read_text().endswith("\n")):
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(int(log.read_text()), 0)
        except ProcessLookupError:
            return
        if _is_zombie(int(log.read_text())):
            return
        time.sleep(0.05)
    raise AssertionError("the command outlived its parent")


def _is_zombie(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
