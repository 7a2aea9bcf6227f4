"""Run one task of a plan, as Snakemake or any other scheduler starts it.

    python -m laptop_world.run PLAN.json "gridclip seed 0"

The tasks that it needs come before it. The working directory is the repository's folder; a plan
whose paths are relative may have been made on another machine.

In the task's folder, log.txt has the command's output and record.json what it was made from and the
seconds of all its starts. It ends with its parent, and the command with it.
"""

import sys

from laptop_world.command import CommandError, die_with_parent, locked, run_logged
from laptop_world.grid import Plan, Task
from laptop_world.record import ChangedError


def check_needs(plan: Plan, task: Task) -> None:
    """Raises CommandError if a task that comes before is not complete."""
    for other in plan.tasks:
        if other.name in task.needs and not other.open_record().complete:
            raise CommandError(f"it needs '{other.name}', which is not complete: run that first")


def main(argv: list[str] | None = None) -> None:
    plan_file, name = sys.argv[1:] if argv is None else argv
    plan = Plan.read(plan_file)
    (task,) = [task for task in plan.tasks if task.name == name]

    def say(event: str) -> None:
        print(plan.progress(task, event), flush=True)

    try:
        with locked(task.log_file) as log:
            record = task.open_record()
            if record.complete:  # killed after that, before Snakemake heard of it
                return
            check_needs(plan, task)
            say("goes on" if record.seconds else "started")
            with record.working():
                run_logged([sys.executable, *task.command], log)
    except ChangedError as error:
        sys.exit(f"{name}: failed: {error}")
    except CommandError as error:
        say(f"failed: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    say(f"done in {task.outcome()}")


if __name__ == "__main__":
    die_with_parent()
    main()
