"""What can be checked of a Markdown page without running its code.

Every check takes the text of a page and yields its problems, as a person would say them.
"""

import ast
import importlib
import re
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from detectron2.config import LazyConfig
from omegaconf import DictConfig

from gridclip.settings import load_config as load_settings

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "projects/GridCLIP"
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "datasets/README.md", "projects/GridCLIP/**/*.md")
    for path in ROOT.glob(pattern)
)
LANGUAGES = ("python", "sh", "text", "mermaid")
BASES = (ROOT, PROJECT, PROJECT / "gridclip", ROOT / "scripts", ROOT / "tests")
CONFIGS = ("lvis/gridclip_r50_ov_1x.py", "lvis/vild_r50_ov.py", "laptop/gridclip.py")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: as the fence names it; an indented block is shell.
        text: what it holds.
        note: the comment on the line before, such as "not run: it needs a GPU"; else empty.
    """

    language: str
    text: str
    note: str

    @property
    def runs(self) -> bool:
        return not self.note.startswith("not run: ")


FENCED = re.compile(r"^(?:<!-- ([^\n]*) -->\n)?```(\w*)\n(.*?)^```$", re.M | re.S)
INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+")


def blocks(text: str, language: str | None = None) -> list[Block]:
    found = [Block(m[2], m[3], m[1] or "") for m in FENCED.finditer(text)]
    indented = INDENTED.findall(FENCED.sub("", text))
    found += [Block("sh", textwrap.dedent(block), "") for block in indented]
    return [block for block in found if language in (None, block.language)]


def prose(text: str) -> str:
    """The page without its blocks of code."""
    return INDENTED.sub("", FENCED.sub("", text))


def inline_code(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def fence_problems(text: str) -> Iterator[str]:
    for block in blocks(text):
        if block.language not in LANGUAGES:
            yield f"a block is '{block.language}', not one of {', '.join(LANGUAGES)}"


def link_problems(text: str, folder: Path) -> Iterator[str]:
    """Relative links and anchors; ``folder`` is the page's."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (folder / name).resolve() if name else None
        if path is not None and not path.exists():
            yield f"no file at link {target}"
        elif anchor and anchor not in _anchors(text if path is None else path.read_text()):
            yield f"no heading at link {target}"


def _anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def name_problems(text: str, folder: Path) -> Iterator[str]:
    """Files and functions in inline code; functions belong to a file of their line, if any."""
    written = {block.note.removeprefix("file: ") for block in blocks(text)}  # by the reader
    for line in prose(text).splitlines():
        code = inline_code(line)
        words = {c.split()[0] for c in code if c.strip()} - written
        names = sorted(word for word in words if re.fullmatch(r"[\w./]+\.py", word))
        yield from _defined(names, [c for c in code if c.endswith("()")], folder)


def mermaid_problems(text: str) -> Iterator[str]:
    """Every node that names functions names their files, too."""
    for block in blocks(text, "mermaid"):
        labels = re.findall(r'\["(.*?)"\]', block.text)
        if not labels:
            yield "a drawing without labels"
        for label in labels:
            names = re.findall(r"[\w./]+\.py", label)
            functions = re.findall(r"[\w.]+\(\)", label)
            if functions and not names:
                yield f"no file in '{label}'"
            yield from _defined(names, functions)


def _defined(names: list[str], functions: list[str], folder: Path = ROOT) -> Iterator[str]:
    paths = {name: _find_file(name, folder) for name in names}
    yield from (f"no file {name}" for name, path in paths.items() if path is None)
    places = [path for path in paths.values() if path is not None] or _sources()
    known = set().union(*map(_definitions, places))
    for function in functions:
        if function.removesuffix("()") not in known:
            yield f"no {function} in {', '.join(names) or 'the code'}"


def _find_file(name: str, folder: Path) -> Path | None:
    return next((base / name for base in (folder, *BASES) if (base / name).is_file()), None)


def _sources() -> list[Path]:
    return [*PROJECT.glob("*.py"), *PROJECT.glob("[!c]*/**/*.py"), *ROOT.glob("scripts/*.py")]


@cache
def _definitions(path: Path) -> frozenset[str]:
    """Functions and classes of a file; methods as Class.method and by themselves."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            parts = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            names |= {f"{node.name}.{part.name}" for part in parts} | {p.name for p in parts}
    return frozenset(names)


def import_problems(text: str) -> Iterator[str]:
    """Dotted names of the project's own packages in inline code."""
    for name in inline_code(prose(text)):
        if re.fullmatch(r"(gridclip|laptop_world|benchmark)(\.\w+)+(?<!\.json)", name):
            module, _, attribute = name.rpartition(".")
            if locate_module(name) is None and not hasattr(locate_module(module), attribute):
                yield f"no {name}"


def locate_module(name: str):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


def setting_problems(text: str) -> Iterator[str]:
    """Settings in inline code, with or without a value: one of the configs must know them."""
    sections = "train|model|clip|dataloader|optimizer|lr_multiplier|shapes"
    for code in inline_code(prose(text)):
        for word in code.split():
            if re.match(rf"({sections})\.\w", word):
                key = word.partition("=")[0]
                if not any(has_setting(load_config(name), key) for name in CONFIGS):
                    yield f"no setting {key}"


@cache
def load_config(name: str) -> DictConfig:
    return LazyConfig.load(str(PROJECT / "configs" / name))


def has_setting(cfg: DictConfig, key: str) -> bool:
    """Whether a config has a value for a key, or the class that it configures an argument."""
    try:
        load_settings(cfg, [f"{key}=null"])
    except ValueError:
        return False
    return True


def message_problems(text: str) -> Iterator[str]:
    """Messages in the first column of tables headed "message" must be the code's."""
    for table in re.findall(r"^\| message .*\n\|[-|]+\n((?:\|.*\n)+)", text, re.M):
        for row in table.splitlines():
            message = inline_code(row)[0]
            parts = [re.escape(part) for part in message.split("...")]
            if not any(re.search(".*?".join(parts), literal, re.S) for literal in _literals()):
                yield f"no message '{message}'"


@cache
def _literals() -> tuple[str, ...]:
    """Every string of the code, with a placeholder for what an f-string puts in."""
    texts = [(ROOT / "Makefile").read_text()]
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", None) for part in node.values]
                texts.append("".join(p if isinstance(p, str) else "\0" for p in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return tuple(texts)


def shell_syntax_problems(text: str) -> Iterator[str]:
    for block in blocks(text, "sh"):
        done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
        if done.returncode:
            yield done.stderr


def make_problems(words: list[str]) -> Iterator[str]:
    """Targets and variables of a ``make`` command, without the word itself."""
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):", makefile, re.M)
    variables = re.findall(r"^([A-Z0-9_]+) \??:?=", makefile, re.M)
    for word in words:
        name, is_variable, _ = word.partition("=")
        if not name.startswith("-") and name not in (variables if is_variable else targets):
            yield f"make knows no {name}"


def inline_command_problems(text: str) -> Iterator[str]:
    for code in inline_code(prose(text)):
        first, *rest = code.split()
        if first == "make" and rest:
            yield from make_problems(re.sub(r'"[^"]*"', "", code).split()[1:])
        elif rest[:1] == ["-m"] and locate_module(rest[1]) is None:
            yield f"no module {rest[1]}"
