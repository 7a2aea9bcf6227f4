"""The commands of ``gridclip``: they run the repository's own files, and their help answers."""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from runpy import run_path

import pytest
from PIL import Image

from gridclip import cli
from gridclip.cli import COMMANDS, ROOT, Command, available, main

NAMES = list(available())
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "projects/GridCLIP")}


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Files of a repository of its own; the command "try" runs try.py."""
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    monkeypatch.setattr(cli, "COMMANDS", {"try": Command("try.py", "tries", ("--first",))})
    return tmp_path


def run_script(name: str, *arguments: str) -> None:
    """``python FILE ARGUMENTS`` of a command, in this process."""
    command = COMMANDS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [command.file, *command.arguments, *arguments])
        run_path(str(ROOT / command.file), run_name="__main__")


def run_command(name: str, *arguments: str) -> None:
    main([name, *arguments])


def test_help_lists_every_command_that_is_there(capsys):
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        main(arguments)
    once, *others = capsys.readouterr().out.split("usage: ")[1:]
    assert others == [once] * 3
    assert re.findall(r"^  (\w+) ", once, re.M) == NAMES


def test_help_of_all_commands_loads_no_torch():
    code = "from gridclip.cli import main; main([]); import sys; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT)
    assert done.returncode == 0


@pytest.fixture
def parser_of(monkeypatch):
    """The parser of a command, which is stopped when it would parse."""

    class Stopped(Exception):
        pass

    def stop(parser, *args, **kwargs):
        raise Stopped(parser)

    def parser_of(name: str) -> argparse.ArgumentParser:
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", stop)
            with pytest.raises(Stopped) as stopped:
                main([name])
        return stopped.value.args[0]

    return parser_of


def options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str | None]]:
    """All options and commands below them, with their help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for name, part in action.choices.items():
                yield name, helps.get(name)
                yield from options(part)
        else:
            yield action.metavar or action.dest, action.help


@pytest.mark.parametrize("name", NAMES)
def test_help_of_each_command_answers(name, parser_of):
    parser = parser_of(name)
    assert parser.description or parser.epilog
    assert [option for option, text in options(parser) if not text] == []


def test_options_without_help_are_noticed():
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--mute")
    parts = parser.add_subparsers()
    parts.add_parser("part").add_argument("--loud", help="says so")
    assert list(options(parser)) == [
        ("mute", None),
        ("part", None),
        ("help", "show this help message and exit"),
        ("loud", "says so"),
    ]


@pytest.mark.parametrize("arguments", [["help", "convert"], ["convert", "--help"]])
def test_help_of_a_command(arguments, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 0
    assert capsys.readouterr().out.startswith("usage: gridclip convert [-h] {voc,yolo} ...")


@pytest.mark.parametrize("name", NAMES)
def test_help_of_each_command_is_that_of_its_script(name, capsys):
    printed = []
    for run in (run_command, run_script):
        with pytest.raises(SystemExit) as exit_info:
            run(name, "--help")
        assert not exit_info.value.code
        # The usage is broken into lines by the name's length.
        usage, _, rest = capsys.readouterr().out.partition("\n\n")
        printed.append((usage.split(), rest))
    (usage, rest), (usage_of_script, rest_of_script) = printed
    assert rest == rest_of_script
    assert usage == ["usage:", "gridclip", name, *usage_of_script[2:]]


def test_a_command_does_what_its_script_does(tmp_path, monkeypatch, capsys):
    """The same file, printed line and refusal."""
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    Path("labels").mkdir()
    Image.new("RGB", (20, 10)).save("images/a.png")
    Path("labels/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    Path("data.yaml").write_text("names: [cat]\n")
    outcomes = []
    for run in (run_command, run_script):
        given = ["yolo", "--data", "data.yaml", "--images", "images", "--output", "out.json"]
        run("convert", *given, "--labels", "labels")
        with pytest.raises(SystemExit, match="error: .*gone") as exit_info:
            run("convert", *given, "--labels", "gone")
        written = Path("out.json").read_text()
        outcomes.append((written, capsys.readouterr().out, exit_info.value.code))
        Path("out.json").unlink()
    assert outcomes[0] == outcomes[1]


def test_a_command_runs_as_main_with_its_own_arguments(commands, capsys):
    (commands / "beside.py").write_text("word = 'beside'\n")
    (commands / "try.py").write_text(
        "import sys, beside\nif __name__ == '__main__':\n    print(beside.word, sys.argv)\n"
    )
    before = sys.argv, sys.modules["__main__"], list(sys.path)
    main(["try", "--second", "x y"])
    assert capsys.readouterr().out == "beside ['gridclip try', '--first', '--second', 'x y']\n"
    assert (sys.argv, sys.modules["__main__"], sys.path) == before


def test_a_command_exits_as_its_script(commands):
    (commands / "try.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(SystemExit) as exit_info:
        main(["try"])
    assert exit_info.value.code == 3


def test_spawned_processes_find_what_a_command_runs(commands, capfd):
    """As ``train_net.py --num-gpus`` does."""
    (commands / "try.py").write_text(
        "import multiprocessing\n"
        "def work():\n    print('done', flush=True)\n"
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('spawn').Process(target=work)\n"
        "    process.start()\n    process.join()\n    assert process.exitcode == 0\n"
    )
    main(["try"])
    assert capfd.readouterr().out == "done\n"


@pytest.mark.parametrize(
    ("mistyped", "nearest"), [("pedict", "predict"), ("evaluate", "eval"), ("--version", "")]
)
def test_an_unknown_command_is_refused_with_the_nearest(mistyped, nearest):
    for arguments in ([mistyped], ["help", mistyped]):
        with pytest.raises(SystemExit, match=f"no command '{mistyped}'; the nearest is {nearest}"):
            main(arguments)


def test_a_command_without_its_file_is_not_there(commands, capsys):
    (commands / "there.py").write_text("")
    cli.COMMANDS["there"] = Command("there.py", "is there")
    main(["--help"])
    assert re.findall(r"^  (\w+) ", capsys.readouterr().out, re.M) == ["there"]
    with pytest.raises(SystemExit, match="no command 'try'; the nearest is there"):
        main(["try"])


def test_outside_of_the_repository_it_says_what_to_do(commands):
    for arguments in ([], ["--help"], ["try"]):
        with pytest.raises(SystemExit, match="files of its repository.*clone it.*make env"):
            main(arguments)
