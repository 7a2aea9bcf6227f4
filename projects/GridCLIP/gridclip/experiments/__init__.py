"""Running many commands, and many trainings, that survive being killed."""

from .command import CommandError, LoggedCommand
from .grid import Task, run_tasks
from .record import ChangedError, TaskRecord, run_identity
from .summary import plot_summary, summarise

__all__ = [
    "ChangedError",
    "CommandError",
    "LoggedCommand",
    "Task",
    "TaskRecord",
    "plot_summary",
    "run_identity",
    "run_tasks",
    "summarise",
]
