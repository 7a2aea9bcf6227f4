"""``gridclip COMMAND ...``: the programs of the repository, each as a command.

A command runs the same file as ``python FILE ...``, in this process. Help imports none of them, so
that it answers at once.
"""

import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

# The repository, where the package lies in it: an editable install, as `make env` makes it.
ROOT = Path(__file__, "../../../..").resolve()


class Command(NamedTuple):
    """A program of the repository.

    Attributes:
        file: below ``ROOT``.
        summary: what it does, after the name of the command.
        arguments: that go before those of the user.
    """

    file: str
    summary: str
    arguments: tuple[str, ...] = ()


COMMANDS = {
    "predict": Command("projects/GridCLIP/demo.py", "look for words in pictures"),
    "app": Command("projects/GridCLIP/app.py", "the same on a page in the browser"),
    "train": Command("projects/GridCLIP/train_net.py", "train a detector"),
    "eval": Command("projects/GridCLIP/train_net.py", "evaluate a detector", ("--eval-only",)),
    "visualize": Command("scripts/visualize.py", "draw results, and where it sees a word"),
    "check": Command("scripts/check_dataset.py", "look through a data set before a training"),
    "convert": Command("scripts/convert_dataset.py", "YOLO and Pascal VOC folders to COCO's JSON"),
    "audit": Command("scripts/audit_split.py", "prove that novel categories reach no loss"),
    "embed": Command(
        "scripts/precompute_text_embeddings.py", "embed names and keep them in a file"
    ),
    "precompute": Command("scripts/precompute.py", "fill the stores that a training reads"),
    "tune": Command("scripts/tune_scores.py", "choose the weights of the dense scores"),
    "interpolate": Command("scripts/interpolate_weights.py", "between two detectors' weights"),
    "export": Command("scripts/export.py", "write a detector for ONNX, OpenVINO or torch.export"),
    "speed": Command("scripts/compare_speed.py", "time detectors beside each other"),
    "env": Command("scripts/check_env.py", "what is installed, and which data are there"),
}


def available() -> dict[str, Command]:
    """The commands whose files are there."""
    return {name: command for name, command in COMMANDS.items() if (ROOT / command.file).is_file()}


def usage() -> str:
    commands = available()
    width = max(map(len, commands))
    return "\n".join(
        [
            "usage: gridclip COMMAND ...",
            "",
            "GridCLIP, an open-vocabulary object detector. The commands:",
            "",
            *(f"  {name:{width}}  {command.summary}" for name, command in commands.items()),
            "",
            "gridclip COMMAND --help says what a command takes.",
        ]
    )


def run(name: str, arguments: Sequence[str]) -> None:
    """Do what ``python FILE ARGUMENTS`` does, with the command's name in the usage.

    Not by ``runpy``, which puts the file's name there.
    """
    command = COMMANDS[name]
    path = ROOT / command.file
    # The module is __main__, as spawned processes look for what they run there.
    module = ModuleType("__main__")
    module.__file__ = str(path)
    before = sys.argv, sys.modules["__main__"], list(sys.path)
    sys.argv = [f"gridclip {name}", *command.arguments, *arguments]
    sys.modules["__main__"] = module
    sys.path.insert(0, str(path.parent))  # as Python does: app.py imports from its own folder
    try:
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
    finally:
        sys.argv, sys.modules["__main__"], sys.path[:] = before


def main(argv: Sequence[str] | None = None) -> None:
    """Raises SystemExit with what the command exits with; with a message if there is no such
    command, or if the package is not in its repository."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = available()
    if not commands:
        sys.exit(
            "error: gridclip's commands are files of its repository, which is not around "
            f"{os.path.dirname(__file__)}: clone it, and install the package by `make env` there."
        )
    name, *rest = arguments or ["--help"]
    if name == "help" and rest:
        name, rest = rest[0], ["--help"]
    if name in ("help", "--help", "-h"):
        print(usage())
    elif name in commands:
        run(name, rest)
    else:
        nearest = difflib.get_close_matches(name, commands, n=1, cutoff=0)[0]
        sys.exit(
            f"error: gridclip has no command '{name}'; the nearest is {nearest}. "
            "gridclip --help lists them."
        )


if __name__ == "__main__":
    main()
