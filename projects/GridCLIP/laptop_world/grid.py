"""Commands that wait for one another, several at a time, each done once."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from .command import CommandError, LoggedCommand
from .duration import duration
from .record import TaskRecord

_POLL_SECONDS, _RECORD_SECONDS = 0.2, 10.0


@dataclass
class Task:
    """A command to be run once.

    Attributes:
        name: unique, for a person.
        command: program and arguments; run again, it goes on where it was killed.
        record: says whether it is complete, and keeps its seconds.
        log_file: of its output.
        needs: names of the tasks that come before it.
        group: tasks that take about as long as one another, for the remaining time; None for a
            short one, which doesn't count.
        outcome: a line on what came out, called once it is done.
    """

    name: str
    command: Sequence[str]
    record: TaskRecord
    log_file: Path
    needs: Sequence[str] = ()
    group: str | None = None
    outcome: Callable[[], str] | None = None


def run_tasks(
    tasks: Sequence[Task], jobs: int, *, env: dict[str, str], say: Callable[[str], None] = print
) -> dict[str, str]:
    """Run what is not complete, up to ``jobs`` at once, in order as far as ``needs`` allow.

    A failure leaves out what needs it and nothing else. On any exception, an interrupt included,
    running commands are ended; what they have done is kept.

    Args:
        env: variables for the commands.
        say: gets a line for each event.

    Returns:
        The reason by name of the tasks that failed or were left out.
    """
    runner = _Runner(tasks, jobs, env, say)
    try:
        while runner.step():
            time.sleep(_POLL_SECONDS)
    finally:
        runner.end_all()
    return runner.failed


class _Runner:
    def __init__(self, tasks, jobs, env, say):
        self.tasks, self.jobs, self.env, self.say = tasks, jobs, env, say
        self.waiting = [task for task in tasks if not task.record.complete]
        self.running: dict[str, tuple[Task, LoggedCommand]] = {}
        self.counted_until: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        for task in tasks:
            if task.record.complete:
                self._report_done(task, "was done")

    def step(self) -> bool:
        """Look after what runs, start what can be started. False once there is nothing left."""
        for task, command in list(self.running.values()):
            self._look_after(task, command)
        for task in list(self.waiting):
            self._start_if_possible(task)
        return bool(self.running or self.waiting)

    def end_all(self) -> None:
        for task, command in self.running.values():
            command.terminate()
            self._count_seconds(task)

    def _look_after(self, task: Task, command: LoggedCommand) -> None:
        try:
            ended = command.poll()
        except CommandError as error:
            del self.running[task.name]
            self._count_seconds(task)
            self._fail(task, str(error))
            return
        if ended:
            del self.running[task.name]
            task.record.complete = True
            self._count_seconds(task)
            self._report_done(task, "done")
        elif time.monotonic() - self.counted_until[task.name] > _RECORD_SECONDS:
            self._count_seconds(task)

    def _start_if_possible(self, task: Task) -> None:
        if broken := [name for name in task.needs if name in self.failed]:
            self.waiting.remove(task)
            self._fail(task, f"it needs {broken[0]}")
            return
        done = {t.name for t in self.tasks if t.record.complete}
        if len(self.running) == self.jobs or not done.issuperset(task.needs):
            return
        self.waiting.remove(task)
        task.record.write()
        self.counted_until[task.name] = time.monotonic()
        try:
            command = LoggedCommand(task.command, task.log_file, self.env)
        except CommandError as error:
            self._fail(task, str(error))
            return
        self.running[task.name] = task, command
        self._report(task, "goes on" if task.record.seconds else "started")

    def _count_seconds(self, task: Task) -> None:
        now = time.monotonic()
        task.record.seconds += now - self.counted_until[task.name]
        self.counted_until[task.name] = now
        task.record.write()

    def _fail(self, task: Task, reason: str) -> None:
        self.failed[task.name] = reason
        self._report(task, f"failed: {reason}")

    def _report_done(self, task: Task, verb: str) -> None:
        outcome = f", {task.outcome()}" if task.outcome else ""
        self._report(task, f"{verb} in {duration(task.record.seconds)}{outcome}")

    def _report(self, task: Task, event: str) -> None:
        done = sum(t.record.complete for t in self.tasks)
        left = self._seconds_left()
        remaining = "" if left is None else f"; about {duration(left)} left"
        width = len(str(len(self.tasks)))
        self.say(f"[{done:{width}}/{len(self.tasks)}] {task.name}: {event}{remaining}")

    def _seconds_left(self) -> float | None:
        """By the seconds of complete tasks of the same group, or else of all groups."""
        known: dict[str, list[float]] = {}
        for task in self.tasks:
            if task.record.complete and task.group is not None:
                known.setdefault(task.group, []).append(task.record.seconds)
        left = [
            task
            for task in self.tasks
            if not task.record.complete and task.group and task.name not in self.failed
        ]
        if not known or not left:
            return None
        overall = mean(seconds for group in known.values() for seconds in group)
        expected = {group: mean(seconds) for group, seconds in known.items()}
        total = sum(
            max(0.0, expected.get(task.group, overall) - task.record.seconds) for task in left
        )
        return total / min(self.jobs, len(left))
