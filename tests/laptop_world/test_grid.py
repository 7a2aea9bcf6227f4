"""Snakemake runs the tasks; what they do is a line of Python each."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from laptop_world import command, run
from laptop_world.command import CommandError, locked
from laptop_world.duration import duration
from laptop_world.grid import Plan, Task, run_tasks
from laptop_world.record import ChangedError


@pytest.fixture
def make(tmp_path):
    """Makes a task that runs Python code in a folder of its own."""

    def make(name, code, **fields):
        folder, source = str(tmp_path / "grid" / name), ["-c", code]
        return Task(name, folder, source, {"code": code}, group="all", **fields)

    return make


@pytest.fixture
def run_all(tmp_path, capfd):
    """Runs tasks; returns the reasons of those that are not complete, and the lines printed."""

    def run_all(tasks, jobs=1, snakemake=()):
        reasons = run_tasks(Plan(tasks, jobs), tmp_path / "grid", snakemake)
        return reasons, capfd.readouterr().out.splitlines()

    return run_all


def write(path, text):
    return f"open({str(path)!r}, 'a').write({text!r})"


def test_each_is_done_once_after_what_it_needs(make, run_all, tmp_path):
    order = tmp_path / "order"
    results = '{"metrics": {"bbox": {"AP": 1.0, "APr": null}}}'

    def tasks():
        return [
            make("last", write(order, "c"), needs=["first", "second"]),
            make("first", write(order, "a")),
            make(
                "second",
                f"{write(order, 'b')}; {write(tmp_path / 'grid/second/results.json', results)}",
                needs=["first"],
            ),
        ]

    reasons, said = run_all(tasks(), jobs=2)
    assert reasons == {} and order.read_text() == "abc"
    assert said[0] == "[0/3] first: started"
    pattern = r"\[2/3\] second: done in \d+ s, AP 1\.0; about \d+ s left"
    assert any(re.fullmatch(pattern, line) for line in said)

    reasons, said = run_all(tasks(), jobs=2)
    assert reasons == {} and order.read_text() == "abc"
    assert [line.split(" in ")[0] for line in said] == [
        "[3/3] last: was done",
        "[3/3] first: was done",
        "[3/3] second: was done",
    ]
    assert said[2].endswith(", AP 1.0")


@pytest.mark.slow
def test_finished_work_stays_whatever_is_newer(make, run_all, tmp_path):
    """Neither ages of files nor a stamp that a kill has cost count: the record does."""
    order = tmp_path / "order"
    tasks = [
        make("first", write(order, "a")),
        make("second", write(order, "b"), needs=["first"]),
        make("third", write(order, "c"), needs=["second"]),
    ]
    assert run_all(tasks)[0] == {}
    (tmp_path / "grid/first/done").touch()
    (tmp_path / "grid/second/done").unlink()
    assert run_all(tasks)[0] == {} and order.read_text() == "abc"
    (tmp_path / "grid/second/record.json").unlink()
    assert run_all(tasks)[0] == {} and order.read_text() == "abcb"


@pytest.mark.slow
def test_a_failure_leaves_out_only_what_needs_it(make, run_all, tmp_path):
    code = f"import os; os.path.exists({str(tmp_path / 'mended')!r}) or 1 / 0"
    tasks = [
        make("bad", code),
        make("after", "pass", needs=["bad"]),
        make("later", "pass", needs=["after"]),
        make("good", "pass"),
    ]
    reasons, said = run_all(tasks)
    assert set(reasons) == {"bad", "after", "later"}
    assert "ZeroDivisionError" in reasons["bad"] and "bad/log.txt" in reasons["bad"]
    assert reasons["after"] == "it needs bad" and reasons["later"] == "it needs after"
    assert any(line.startswith("[1/4] good: done") for line in said)
    (failed,) = [line for line in said if "failed" in line]
    assert re.fullmatch(r"\[0/4\] bad: failed: exit code 1; log: .*bad/log\.txt", failed)
    (tmp_path / "mended").touch()
    assert run_all(tasks)[0] == {}


def test_jobs_at_once_of_a_thread_each(make, run_all, tmp_path):
    """Two commands that each wait for the other's file end only if they run side by side."""
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"

    def meet(own, other):
        return (
            "import os, time\n"
            "assert os.environ['OMP_NUM_THREADS'] == '1'\n"
            f"open({str(own)!r}, 'w')\n"
            f"while not os.path.exists({str(other)!r}): time.sleep(0.01)\n"
        )

    assert run_all([make("a", meet(a, b)), make("b", meet(b, a))], jobs=2)[0] == {}


LONG = """
import os, time
with open({path!r}, "a") as file: print(os.getpid(), file=file)
while not os.path.exists({end!r}): time.sleep(0.05)
"""


@pytest.fixture
def long_task(make, tmp_path):
    """Runs until there is a file ``end``; adds its process's number to ``pids``."""
    return make("long", LONG.format(path=str(tmp_path / "pids"), end=str(tmp_path / "end")))


def start_in_another_process(tmp_path, task):
    """Starts the task alone; returns the process once the task's command runs."""
    plan = tmp_path / "plan.json"
    Plan([task], 1).write(plan)
    code = (
        "import sys; from pathlib import Path; from laptop_world.grid import *\n"
        "run_tasks(Plan.read(sys.argv[1]), Path(sys.argv[2]))"
    )
    engine = subprocess.Popen(
        [sys.executable, "-c", code, plan, tmp_path / "grid"],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: (tmp_path / "pids").is_file() and (tmp_path / "pids").read_text())
    return engine


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["caller", "snakemake", "interrupt"])
def test_a_kill_ends_commands_and_keeps_their_seconds(long_task, run_all, tmp_path, killed):
    """Whichever process is killed. What needs no care afterwards: neither lock nor stamp."""
    caller = start_in_another_process(tmp_path, long_task)
    time.sleep(0.2)
    if killed == "caller":
        caller.kill()
    elif killed == "snakemake":
        os.kill(children(caller.pid)[0], signal.SIGKILL)
    else:
        os.killpg(caller.pid, signal.SIGINT)  # as a terminal does
    caller.wait(timeout=30)
    pid = int((tmp_path / "pids").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists())

    assert not long_task.open_record().complete and long_task.open_record().seconds >= 0
    assert Path(long_task.folder, "record.json").is_file()
    (tmp_path / "end").touch()
    reasons, said = run_all([long_task])
    assert reasons == {}  # the log is free again
    assert len((tmp_path / "pids").read_text().split()) == 2
    assert said[0].startswith("[0/1] long: ")


@pytest.mark.slow
def test_a_second_start_keeps_the_seconds_of_the_first(make, run_all, tmp_path):
    fails_at_first = f"import os, time; time.sleep(0.3); os.makedirs({str(tmp_path / 'a')!r})"
    (tmp_path / "a").mkdir()
    task = make("long", fails_at_first)
    assert set(run_all([task])[0]) == {"long"}
    before = task.open_record().seconds
    assert before >= 0.3
    (tmp_path / "a").rmdir()
    reasons, said = run_all([task])
    assert reasons == {} and said[0].startswith("[0/1] long: goes on")
    assert task.open_record().complete and task.open_record().seconds >= before + 0.3


def test_one_process_at_a_time(make, run_all, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_LOCK_SECONDS", 0.1)
    task = make("a", "pass")
    with locked(tmp_path / "grid/lock"), pytest.raises(CommandError, match="at work in .*grid"):
        run_all([task])
    Plan([task], 1).write(tmp_path / "plan.json")
    with locked(task.log_file), pytest.raises(SystemExit):
        run.main([str(tmp_path / "plan.json"), "a"])
    assert not task.open_record().complete


def test_a_run_waits_for_none_and_needs_what_comes_before(make, tmp_path, capsys):
    """Any scheduler may start it, in any order: too early is an error, and nothing is lost."""
    tasks = [make("a", "pass"), make("b", "pass", needs=["a"])]
    Plan(tasks, 1).write(tmp_path / "plan.json")
    with pytest.raises(SystemExit):
        run.main([str(tmp_path / "plan.json"), "b"])
    assert "b: failed: it needs 'a', which is not complete" in capsys.readouterr().out
    for name in ("a", "b", "b"):
        run.main([str(tmp_path / "plan.json"), name])
    assert all(task.open_record().complete for task in tasks)


def test_a_run_refuses_a_folder_of_another_identity(make, tmp_path):
    make("a", "1").open_record().write()
    task = make("a", "2")
    Plan([task], 1).write(tmp_path / "plan.json")
    with pytest.raises(SystemExit, match=r"a: failed: .*made with other settings \(code\)"):
        run.main([str(tmp_path / "plan.json"), "a"])
    with pytest.raises(ChangedError, match=r"made with other settings \(code\)"):
        task.open_record()
    assert not task.stamp.exists()


def test_further_arguments_reach_snakemake(make, run_all):
    tasks = [make("b", "pass", needs=["a"]), make("a", "pass")]
    reasons, _ = run_all(tasks, snakemake=["--dry-run", "--quiet", "rules"])
    assert set(reasons) == {"a", "b"}
    assert all(reason.startswith("it was not started") for reason in reasons.values())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (3 * 3600 + 61, "3 h 1 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
