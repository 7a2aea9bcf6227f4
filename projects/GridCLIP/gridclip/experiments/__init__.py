"""Running many commands, and many trainings, that survive being killed."""

from .command import CommandError, LoggedCommand
from .curves import curve_point, plot_curves, training_seconds
from .grid import Task, run_tasks
from .record import ChangedError, TaskRecord, run_identity
from .summary import plot_summary, summarise

__all__ = [
    "ChangedError",
    "CommandError",
    "LoggedCommand",
    "Task",
    "TaskRecord",
    "curve_point",
    "plot_curves",
    "plot_summary",
    "run_identity",
    "run_tasks",
    "summarise",
    "training_seconds",
]
