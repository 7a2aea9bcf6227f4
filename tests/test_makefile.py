"""`make env`: where torch and detectron2 come from, and that the choice stays.

The Makefile runs in a folder of its own. Its .venv has a Python that only writes down what it is
asked to do.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INDEX = "https://index.example/cu126"
PYTHON = """#!/bin/sh
echo "$*" >> commands
case "$*" in
  "-m pip list"*) for pin in numpy==2.1.0 torch==2.9.1+cu126 torchvision==0.24.1+cu126; do
    echo "$pin"; done ;;
  *sysconfig*) echo site-packages ;;
  *git+https*) [ ! -e offline ] ;;
  *"-r /dev/stdin"*) cat > "asked-$(wc -l < commands)" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """The Makefile and what it depends on, an empty PATH folder, and the .venv."""
    folder = tmp_path / "checkout"
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / "path").mkdir()
    names = ["Makefile", "pyproject.toml", "constraints.txt", *map(str, ROOT.glob("require*.txt"))]
    for name in names:
        shutil.copy(ROOT / name, folder)
    program(folder / ".venv/bin/python", PYTHON)
    for tool in "sh cat rm sed grep echo touch wc awk".split():
        (folder / "path" / tool).symlink_to(shutil.which(tool))
    return folder


def program(path: Path, text: str = "#!/bin/sh\n") -> None:
    path.write_text(text)
    path.chmod(0o755)


def make(checkout: Path, *words: str, code: int = 0) -> str:
    """Runs make with nothing on PATH but the folder's; returns what it printed."""
    env = {"PATH": str(checkout / "path"), "HOME": str(checkout), "CUDA_HOME": str(checkout)}
    done = subprocess.run(
        [shutil.which("make"), *words],
        cwd=checkout,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def commands(checkout: Path) -> list[str]:
    """What pip was asked to do since the last call."""
    log = checkout / "commands"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [line.removeprefix("-m pip ") for line in lines if line.startswith("-m pip ")]


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.M))


def test_the_pinned_torch_is_the_default(checkout):
    make(checkout, "env")
    asked = commands(checkout)
    assert not [
        line for line in asked if "--index-url" in line or line.startswith("uninstall --yes torch ")
    ]
    assert any("-c constraints.txt -r requirements.txt" in line for line in asked)
    make(checkout, "env")
    assert commands(checkout) == []


def test_torch_of_another_index_comes_first_and_its_pins_are_left_out(checkout):
    make(checkout, "env", f"TORCH_INDEX={INDEX}")
    asked = commands(checkout)
    of_torch = next(i for i, line in enumerate(asked) if f"--index-url {INDEX}" in line)
    others = next(i for i, line in enumerate(asked) if "-r requirements.txt" in line)
    assert asked.index("uninstall --yes torch torchvision") < of_torch < others
    assert "-c .venv/.constraints.txt" in asked[others]
    first = min(checkout.glob("asked-*"), key=lambda path: int(path.name.partition("-")[2]))
    assert [re.match(r"\w+", line)[0] for line in first.read_text().splitlines()] == [
        "torch",
        "torchvision",
    ]
    before, after = pins(checkout / "constraints.txt"), pins(checkout / ".venv/.constraints.txt")
    # What was fetched is held, so that no requirement replaces it from elsewhere.
    assert after.pop("torch") == "2.9.1+cu126" and after.pop("torchvision") == "0.24.1+cu126"
    gone = before.keys() - after.keys()
    assert after.items() <= before.items()
    assert {"torch", "torchvision", "triton", "nvidia-nccl-cu13", "cuda-toolkit"} <= gone
    assert all(re.match("torch|triton|nvidia-|cuda-", name) for name in gone)


def test_the_index_stays_chosen_until_another_is_named(checkout):
    make(checkout, "env", f"TORCH_INDEX={INDEX}")
    commands(checkout)
    make(checkout, "env")
    assert commands(checkout) == []
    (checkout / "requirements.txt").touch()
    make(checkout, "env")
    assert any(INDEX in line for line in commands(checkout))
    make(checkout, "env", "TORCH_INDEX=")
    asked = commands(checkout)
    assert asked[0] == "uninstall --yes torch torchvision"
    assert not any(INDEX in line for line in asked)
    make(checkout, "env")
    assert commands(checkout) == []


def test_an_index_is_a_url(checkout):
    assert "TORCH_INDEX=cu126: give the whole URL" in make(
        checkout, "env", "TORCH_INDEX=cu126", code=2
    )


def test_no_constraints_at_all(checkout):
    make(checkout, "env", f"TORCH_INDEX={INDEX}", "CONSTRAINTS=/dev/null")
    assert pins(checkout / ".venv/.constraints.txt").keys() == {"torch", "torchvision"}


TOOLS = ("nvidia-smi", "nvcc", "c++")


@pytest.mark.parametrize("missing", [*TOOLS, None])
def test_the_source_is_the_default_where_it_compiles(checkout, missing):
    for tool in TOOLS:
        if tool != missing:
            program(checkout / "path" / tool)
    printed = make(checkout, "-n", "env")
    assert ("detectron2.git@" in printed) == (missing is None)
    assert ("'^sal-detectron2'" in printed) == (missing is None)
    assert f".ready-{'index' if missing else 'source'}" in printed


def test_a_driver_that_does_not_answer_is_no_gpu(checkout):
    for tool in TOOLS:
        program(checkout / "path" / tool, "#!/bin/sh\nexit 9\n")
    assert ".ready-index" in make(checkout, "-n", "env")


def test_a_choice_of_detectron2_stays(checkout):
    for tool in TOOLS:
        program(checkout / "path" / tool)
    make(checkout, "env", "DETECTRON2=index")
    commands(checkout)
    make(checkout, "env")
    assert commands(checkout) == []


def test_a_source_that_can_not_be_fetched(checkout):
    (checkout / "offline").touch()
    printed = make(checkout, "env", "DETECTRON2=source", code=2)
    assert "make env DETECTRON2=index" in printed.splitlines()[-2]
    assert not list(checkout.glob(".venv/.ready-*"))
