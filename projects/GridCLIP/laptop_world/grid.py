"""Commands that wait for one another, each run once: planned here, run by Snakemake."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from gridclip.files import write_json
from laptop_world.command import die_with_parent, end, last_lines, locked
from laptop_world.duration import duration
from laptop_world.record import TaskRecord

_SNAKEFILE = Path(__file__).with_name("reproduce.smk")


@dataclass(frozen=True)
class Task:
    """A command to be run once.

    Attributes:
        name: unique, for a person.
        folder: where its record, its log and its stamp lie, relative to the working directory.
        command: arguments of Python, as paths relative to the working directory; run again, it goes
            on where it was killed.
        identity: what its outcome depends on, as JSON.
        needs: names of the tasks that come before it.
        group: tasks that take about as long as one another, for the remaining time; None for a
            short one, which doesn't count.
    """

    name: str
    folder: str
    command: Sequence[str]
    identity: dict
    needs: Sequence[str] = ()
    group: str | None = None

    @property
    def log_file(self) -> Path:
        return Path(self.folder, "log.txt")

    @property
    def stamp(self) -> Path:
        """What tells Snakemake that the task is complete."""
        return Path(self.folder, "done")

    def open_record(self) -> TaskRecord:
        """As it is on the disk now. Raises ChangedError if it was made with other settings."""
        return TaskRecord(Path(self.folder, "record.json"), self.identity)

    def outcome(self) -> str:
        """The time that it took, and a detector's accuracy: "3 min 22 s, AP 30.1 APr 12.0 ..."."""
        seconds = duration(self.open_record().seconds)
        results = Path(self.folder, "results.json")
        if not results.is_file():
            return seconds
        metrics = json.loads(results.read_text(encoding="utf-8"))["metrics"]["bbox"]
        shown = [name for name in ("AP", "APr", "APc", "APf") if metrics.get(name) is not None]
        return f"{seconds}, " + " ".join(f"{name} {metrics[name]:.1f}" for name in shown)


@dataclass(frozen=True)
class Plan:
    """Tasks, and how many of them run at once."""

    tasks: Sequence[Task]
    jobs: int

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Plan":
        plan = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls([Task(**task) for task in plan["tasks"].values()], plan["jobs"])

    def write(self, path: Path) -> None:
        """For Snakemake, too: its settings are this file."""
        plan = {
            "plan": str(path),
            "cwd": os.getcwd(),
            "python": sys.executable,
            "jobs": self.jobs,
            "tasks": {task.name: asdict(task) for task in self.tasks},
        }
        write_json(path, plan, indent=1)

    def progress(self, task: Task, event: str) -> str:
        """A line on an event: how many tasks are complete, and about how long the others take."""
        records = [task.open_record() for task in self.tasks]
        done = sum(record.complete for record in records)
        left = self._seconds_left(records)
        remaining = "" if left is None else f"; about {duration(left)} left"
        width = len(str(len(self.tasks)))
        return f"[{done:{width}}/{len(self.tasks)}] {task.name}: {event}{remaining}"

    def _seconds_left(self, records: Sequence[TaskRecord]) -> float | None:
        """By the seconds of complete tasks of the same group, or else of all groups."""
        known: dict[str, list[float]] = {}
        left: list[tuple[str, float]] = []
        for task, record in zip(self.tasks, records, strict=True):
            if task.group is None:
                continue
            if record.complete:
                known.setdefault(task.group, []).append(record.seconds)
            else:
                left.append((task.group, record.seconds))
        if not known or not left:
            return None
        overall = mean(seconds for group in known.values() for seconds in group)
        expected = {group: mean(seconds) for group, seconds in known.items()}
        total = sum(max(0.0, expected.get(group, overall) - spent) for group, spent in left)
        return total / min(self.jobs, len(left))


def run_tasks(plan: Plan, folder: Path, snakemake: Sequence[str] = ()) -> dict[str, str]:
    """Run what is not complete, in order as far as ``needs`` allow.

    A failure leaves out what needs it and nothing else. On any exception, an interrupt included,
    running commands are ended; what they have done is kept.

    Args:
        folder: of the plan and of Snakemake's own files; one process at a time works in it.
        snakemake: further arguments for Snakemake, whose own messages are then shown.

    Returns:
        The reason by name of the tasks that are not complete.

    Raises:
        CommandError: another process is at work in the folder.
    """
    folder = folder.resolve()
    with locked(folder / "lock"):
        path = folder / "plan.json"
        plan.write(path)
        for task in plan.tasks:
            if task.open_record().complete:
                print(plan.progress(task, f"was done in {task.outcome()}"), flush=True)
            else:
                task.stamp.unlink(missing_ok=True)  # the record is what counts
        _run_snakemake(
            *("--snakefile", _SNAKEFILE, "--configfile", path, "--directory", folder),
            *("--jobs", str(plan.jobs), "--keep-going", "--scheduler", "greedy"),
            # The lock above is one that a kill does not leave behind.
            *("--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime"),
            *(snakemake or ("--quiet", "all")),
        )
    return _incomplete(plan.tasks)


def _run_snakemake(*arguments: str | Path) -> None:
    engine = subprocess.Popen(
        [sys.executable, "-m", "snakemake", *arguments],
        preexec_fn=lambda: die_with_parent(signal.SIGKILL),
    )
    try:
        engine.wait()
    finally:
        if engine.returncode is None:
            end(engine, signal.SIGINT)  # it cancels the jobs of a cluster


def _incomplete(tasks: Sequence[Task]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for task in tasks:
        if task.open_record().complete:
            continue
        if missing := [need for need in task.needs if need in reasons]:
            reasons[task.name] = f"it needs {missing[0]}"
        elif task.log_file.is_file():
            reasons[task.name] = f"log: {task.log_file}\n{last_lines(task.log_file)}"
        else:
            reasons[task.name] = "it was not started; --snakemake --verbose shows why"
    return reasons
