import io
import os
import signal
import subprocess
import sys
import time

import pytest

from laptop_world import command as module
from laptop_world.command import CommandError, LoggedCommand


def wait(command):
    while not command.poll():
        time.sleep(0.02)


def test_output_goes_to_the_log_and_is_shown_once(tmp_path):
    log = tmp_path / "new" / "log.txt"
    shown = io.BytesIO()
    for text in ("one", "two"):
        code = f"import os; print({text!r}, os.environ['WORD'])"
        command = LoggedCommand([sys.executable, "-c", code], log, {"WORD": "x"})
        wait(command)
        command.show_output(shown)
        command.show_output(shown)
    assert log.read_text() == "one x\ntwo x\n"
    assert shown.getvalue() == b"one x\ntwo x\n"


def test_a_failure_names_the_log_and_quotes_its_end(tmp_path):
    command = LoggedCommand([sys.executable, "-c", "1 / 0"], tmp_path / "log.txt")
    with pytest.raises(CommandError, match=r"exit code 1; log: .*log\.txt(.|\n)*ZeroDivisionError"):
        wait(command)


def test_the_log_of_a_running_command_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.1)
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    running = LoggedCommand(sleep, tmp_path / "log.txt")
    with pytest.raises(CommandError, match="Another process is at work"):
        LoggedCommand(sleep, tmp_path / "log.txt")
    running.terminate()
    LoggedCommand(sleep, tmp_path / "log.txt").terminate()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a command outlives a killed parent")
def test_a_killed_parent_takes_the_command_with_it(tmp_path):
    code = (
        "import sys, time\n"
        "from laptop_world.command import LoggedCommand\n"
        "child = 'import os, time; print(os.getpid()); time.sleep(60)'\n"
        "LoggedCommand([sys.executable, '-c', child], sys.argv[1])\n"
        "time.sleep(60)\n"
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
