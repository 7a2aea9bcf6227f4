import re
import sys

import pytest

from laptop_world.duration import duration
from laptop_world.grid import Task, run_tasks
from laptop_world.record import TaskRecord


@pytest.fixture
def make(tmp_path):
    """Makes a task that runs Python code in a folder of its own."""

    def make(name, code, **fields):
        record = TaskRecord(tmp_path / name / "record.json", {"code": code})
        command = [sys.executable, "-c", code]
        return Task(name, command, record, tmp_path / name / "log.txt", group="all", **fields)

    return make


def write(path, text):
    return f"open({str(path)!r}, 'a').write({text!r})"


def test_each_is_done_once_after_what_it_needs(make, tmp_path):
    order = tmp_path / "order"

    def tasks():
        return [
            make("last", write(order, "c"), needs=["first", "second"]),
            make("first", write(order, "a")),
            make("second", write(order, "b"), needs=["first"], outcome=lambda: "AP 1.0"),
        ]

    said = []
    assert run_tasks(tasks(), jobs=2, env={}, say=said.append) == {}
    assert order.read_text() == "abc"
    assert said[0] == "[0/3] first: started"
    pattern = r"\[2/3\] second: done in \d+ s, AP 1\.0; about \d+ s left"
    assert any(re.fullmatch(pattern, line) for line in said)
    said.clear()
    assert run_tasks(tasks(), jobs=2, env={}, say=said.append) == {}
    assert order.read_text() == "abc"
    assert [line.split(" in ")[0] for line in said] == [
        "[3/3] last: was done",
        "[3/3] first: was done",
        "[3/3] second: was done",
    ]


def test_a_failure_leaves_out_only_what_needs_it(make, tmp_path):
    def tasks(code):
        return [
            make("bad", code),
            make("after", "pass", needs=["bad"]),
            make("later", "pass", needs=["after"]),
            make("good", "pass"),
        ]

    said = []
    failed = run_tasks(
        tasks(f"import os; os.path.exists({str(tmp_path / 'mended')!r}) or 1 / 0"),
        jobs=1,
        env={},
        say=said.append,
    )
    assert set(failed) == {"bad", "after", "later"}
    assert "ZeroDivisionError" in failed["bad"] and failed["later"] == "it needs after"
    assert any(line.startswith("[1/4] good: done") for line in said)
    (tmp_path / "mended").touch()
    code = f"import os; os.path.exists({str(tmp_path / 'mended')!r}) or 1 / 0"
    assert run_tasks(tasks(code), jobs=1, env={}, say=said.append) == {}


def test_jobs_at_once(make, tmp_path):
    """Two commands that each wait for the other's file end only if they run side by side."""
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"

    def meet(own, other):
        return (
            "import os, time\n"
            f"open({str(own)!r}, 'w')\n"
            f"while not os.path.exists({str(other)!r}): time.sleep(0.01)\n"
        )

    tasks = [make("a", meet(a, b)), make("b", meet(b, a))]
    assert run_tasks(tasks, jobs=2, env={}, say=lambda line: None) == {}


def test_an_interrupt_ends_commands_and_keeps_their_seconds(make):
    def interrupt(line):
        raise KeyboardInterrupt

    code = "import time; time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        run_tasks([make("long", code)], jobs=1, env={}, say=interrupt)
    again = make("long", code)
    assert not again.record.complete and again.record.seconds > 0
    said = []
    again.command = [sys.executable, "-c", "pass"]
    assert run_tasks([again], jobs=1, env={}, say=said.append) == {}  # the log is free again
    assert said[0].startswith("[0/1] long: goes on")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (3 * 3600 + 61, "3 h 1 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
