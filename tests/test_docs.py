"""The pages: parsers take their commands; names, links and settings exist.

test_page_code.py runs their code.
"""

import argparse
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pages
from gridclip.evaluation import read_results
from pages import PAGES, PROJECT, ROOT, blocks
from train_net import translate_overrides

# Programs of the pages that are not the project's.
OTHERS = {"cd", "do", "done", "export", "for", "mkdir", "source", "unzip", "wget"}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def text_of(page: Path) -> str:
    text = page.read_text()
    if page.name == "CHANGELOG.md":  # what was before is not there any more
        text = re.sub(r"^  \| `[^`]+` \|", "|", text, flags=re.M)
    return text


@each_page
def test_page(page):
    text = text_of(page)
    problems = [
        *pages.fence_problems(text),
        *pages.link_problems(text, page.parent),
        *pages.name_problems(text, page.parent),
        *pages.mermaid_problems(text),
        *pages.setting_problems(text),
        *pages.message_problems(text),
        *pages.shell_syntax_problems(text),
        *pages.inline_command_problems(text),
        *(pages.import_problems(text) if page.name != "CHANGELOG.md" else ()),
    ]
    assert not problems, "\n".join(problems)


class Parsed(Exception):
    """Carries the arguments that a command has parsed, instead of running it."""


@pytest.fixture
def parse(monkeypatch, capsys):
    """Has a command's own parser read a command line; nothing else of the command is run."""
    parse_args = argparse.ArgumentParser.parse_args

    def stop(parser, args=None, namespace=None):
        raise Parsed(parse_args(parser, args, namespace))

    def parse(words: list[str]) -> argparse.Namespace:
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", stop)
            patch.setattr(sys, "argv", words)
            try:
                if words[0] == "-m":
                    patch.setattr(sys, "argv", words[1:])
                    runpy.run_module(words[1], run_name="__main__")
                else:
                    runpy.run_path(str(ROOT / words[0]), run_name="__main__")
            except Parsed as parsed:
                return parsed.args[0]
            except SystemExit as exit:
                if not exit.code:  # of --help
                    return argparse.Namespace()
                raise ValueError(capsys.readouterr().err.splitlines()[-1]) from None
        raise ValueError(f"{words[0]} parses no arguments")

    return parse


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell block, as words; variables set before them are left out."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in (";", "&&", "|"):
                words.append(word)
                continue
            while words and re.match(r"\w+=", words[0]):
                words.pop(0)
            if words:
                yield words
            words = []


def command_problems(words: list[str], parse) -> Iterator[str]:
    program, *rest = words
    if program == "make":
        yield from pages.make_problems(rest)
    elif program.endswith("pytest"):
        if not (ROOT / rest[0]).exists():
            yield f"no {rest[0]}"
    elif program == "sbatch":
        yield from command_problems(["python", *started_by_slurm(rest)], parse)
    elif program in ("python", "torchrun", "gridclip"):
        if program == "gridclip":
            if rest == ["--help"]:
                return
            rest = ["-m", "gridclip.cli", *rest]
        if program == "torchrun":
            rest = rest[rest.index("--nproc-per-node") + 2 :]
        try:
            args = parse(rest)
        except (ValueError, OSError, ImportError) as error:
            yield f"{' '.join(rest)}: {error}"
            return
        yield from argument_problems(args)
    elif program not in OTHERS:
        yield f"what is {program}?"


def started_by_slurm(words: list[str]) -> list[str]:
    """What a batch script among the words runs with the arguments after it."""
    place = next(i for i, word in enumerate(words) if word.endswith(".sbatch"))
    program = re.search(
        r"(\S+\.py|-m laptop_world\.\w+) .*\"\$@\"", (ROOT / words[place]).read_text()
    )
    return [*program[1].split(), *words[place + 1 :]]


def argument_problems(args: argparse.Namespace) -> Iterator[str]:
    """Config files and their settings; names such as CONFIG.py stand for any config."""
    given = vars(args).get("config_file") or []
    for name in [given] if isinstance(given, str) else map(str, given):
        if re.fullmatch(r"[A-Z]+\.py", name):
            continue
        if "configs/mine/" in name:  # the example that a page has its reader write
            name = "projects/GridCLIP/configs/lvis/gridclip_r50_ov_1x.py"
        if not (ROOT / name).is_file():
            yield f"no config {name}"
            continue
        cfg = pages.load_config(str((ROOT / name).relative_to(PROJECT / "configs")))
        for override in translate_overrides(vars(args).get("opts") or []):
            if not pages.has_setting(cfg, key := override.partition("=")[0]):
                yield f"{name} has no setting {key}"


@each_page
def test_commands(page, parse):
    problems = [
        problem
        for block in blocks(page.read_text(), "sh")
        if block.runs
        for words in commands(block.text)
        for problem in command_problems(words, parse)
    ]
    assert not problems, "\n".join(problems)


def test_every_page_and_every_config_is_listed():
    index = (ROOT / "docs/README.md").read_text()
    for page in ROOT.glob("docs/*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index
    training = (ROOT / "docs/training.md").read_text()
    for config in [*PROJECT.glob("configs/lvis/*.py"), *PROJECT.glob("configs/mini/*.py")]:
        assert f"`{config.relative_to(PROJECT)}`" in training


def test_few_blocks_are_not_run():
    notes = [block.note for page in PAGES for block in blocks(page.read_text()) if not block.runs]
    assert len(notes) <= 3 and all(note.removeprefix("not run: ").strip() for note in notes)


def test_readme_quotes_result_files():
    results = PROJECT / "results"
    world = json.loads((results / "laptop_world.json").read_text())
    speed = json.loads((results / "speed_cpu.json").read_text())
    two = json.loads((results / "speed_cpu_two.json").read_text())
    on_gpu, eight = (
        json.loads((results / f"speed_h100{name}.json").read_text())["inference"]
        for name in ("", "_bfloat16")
    )
    overfit = read_results(results / "overfit16.json")["metrics"]["bbox"]["AP"]

    def ap(variant: str, name: str = "AP") -> str:
        return f"{world[variant][name]['mean']:.1f}"

    def seconds(name: str) -> str:
        return f"{speed['inference'][name]['p50']:.2f} s"

    def step(name: str) -> str:
        return f"{speed['training'][name]['step']:.2f} s"

    def alone(name: str) -> str:
        return f"{two['inference'][name]['p50']:.2f} s and {two['training'][name]['step']:.2f} s"

    readme = " ".join((ROOT / "README.md").read_text().split())
    for quoted in (
        f"GridCLIP has AP {ap('gridclip')} and APr (novel categories) {ap('gridclip', 'APr')}, "
        f"without image-level alignment {ap('no_image_alignment')} and "
        f"{ap('no_image_alignment', 'APr')}. In 500 steps ViLD-text has {ap('vild_text')} and "
        f"{ap('vild_text', 'APr')}, with GridCLIP's dense scores {ap('vild_text_dense')} and "
        f"{ap('vild_text_dense', 'APr')}, ViLD {ap('vild')} and {ap('vild', 'APr')}, with them "
        f"{ap('vild_dense')} and {ap('vild_dense', 'APr')}, and F-VLM {ap('fvlm')} and "
        f"{ap('fvlm', 'APr')}",
        f"{speed['setup']['size'][0]} x {speed['setup']['size'][1]} on two threads of an "
        f"{speed['setup']['processor']} a picture takes {seconds('gridclip')}, with ViLD "
        f"{seconds('vild')}, and a training step {step('gridclip')} an image, with ViLD "
        f"{step('vild')}. Where these two alone share the process, GridCLIP takes "
        f"{alone('gridclip_r50_ov_1x')}, ViLD {alone('vild_r50_ov')}.",
        f"On an H100 a picture takes {on_gpu['gridclip_r50_ov_1x']['p50']:.4f} s, with ViLD "
        f"{on_gpu['vild_r50_ov']['p50']:.4f} s, and in batches of eight in bfloat16 "
        f"{eight['gridclip_r50_ov_1x']['p50']:.4f} s, with ViLD "
        f"{eight['vild_r50_ov']['p50']:.4f} s",
        f"AP {overfit:.1f}",
    ):
        assert quoted in readme


def test_pages_quote_what_fine_tuning_and_eight_bits_measured():
    results = PROJECT / "results"
    recipes = json.loads((results / "fine_tuning.json").read_text())["recipes"]
    latency = json.loads((results / "peers_cpu.json").read_text())["latency"]

    def change(recipe: str, alpha: str, group: str) -> str:
        return f"{abs(recipes[recipe]['100'][alpha][f'{group}_change']['mean']):.1f}"

    def seconds(form: str, names: int) -> str:
        (p50,) = (
            entry["p50"]
            for entry in latency
            if (entry["detector"], entry["form"]) == ("gridclip", form)
            and (entry["names"], entry["size"]) == (names, [640, 640])
        )
        return f"{p50:.2f} s"

    for path, quoted in (
        (
            ROOT / "README.md",
            f"weights half of the way to those of a fine-tuning on 100 pictures gain "
            f"{change('aligned', '0.5', 'new')} AP of the new names for "
            f"{change('aligned', '0.5', 'other')} of all others",
        ),
        (
            ROOT / "docs/fine-tuning.md",
            f"plain fine-tuning gained {change('plain', '1', 'new')} AP on the new names and cost "
            f"all others {change('plain', '1', 'other')}. At `--alpha 0.5` the gain was "
            f"{change('plain', '0.5', 'new')} and the loss {change('plain', '0.5', 'other')}",
        ),
        (
            ROOT / "docs/speed.md",
            f"GridCLIP takes {seconds('pytorch_fp32', 1203)} in PyTorch and "
            f"{seconds('openvino_int8', 1203)} with OpenVINO in 8 bits",
        ),
        (
            ROOT / "docs/speed.md",
            f"an 8-bit file takes {seconds('openvino_int8', 21841)} at 640 x 640, PyTorch "
            f"{seconds('pytorch_fp32', 21841)}.",
        ),
    ):
        assert quoted in " ".join(path.read_text().split())


def test_what_a_page_says_of_minutes_is_in_the_curves():
    curves = json.loads((PROJECT / "results/laptop_world_time.json").read_text())
    pages = (ROOT / "README.md", PROJECT / "laptop_world/README.md")
    pages = " ".join(word for page in pages for word in page.read_text().split())

    def facts(name: str, place: int) -> dict:
        curve, point = curves[name], curves[name]["points"][place]
        means = {metric: point[metric]["mean"] for metric in ("AP", "APr", "APf")}
        return {**point, **means, "minutes": curve["preparation_minutes"] + point["minutes"]}

    for point in (p for name in curves if name != "gridclip" for p in curves[name]["points"]):
        for cell in (point["gridclip"][metric] for metric in ("AP", "APr", "APf")):
            assert cell["mean"] > 0 and (cell["n"] == 1 or cell["excludes_zero"])
        assert (cell["n"] == 1) == (point is curves["fvlm"]["points"][-1]) == (cell["n"] != 5)
    fvlm, ours = facts("fvlm", -1), facts("gridclip", -1)
    for words, run in (
        ("GridCLIP's shortest run takes {minutes:.1f} minutes", facts("gridclip", 0)),
        ("the shortest two-stage run {minutes:.1f}.", facts("fvlm", 0)),
        ("F-VLM's {steps:,} steps in {minutes:.1f} minutes have AP {AP:.1f}, APr {APr:.1f}", fvlm),
        ("GridCLIP's {steps:,} in {minutes:.1f} have {AP:.1f}, {APr:.1f} and {APf:.1f}", ours),
        ("minutes of a core, F-VLM has {AP:.1f} and {APr:.1f} with one seed, GridCLIP in", fvlm),
        ("In {steps:,} steps, {minutes:.1f} minutes of a core, F-VLM has", fvlm),
        ("GridCLIP in {steps:,}, {minutes:.1f} minutes, {AP:.1f} and {APr:.1f} with five.", ours),
    ):
        assert words.format(**run) in pages


def test_pages_quote_what_was_measured_on_a_gpu_and_in_half_precision():
    results = PROJECT / "results"
    one, eight = (
        json.loads((results / f"speed_h100{name}.json").read_text()) for name in ("", "_bfloat16")
    )
    lab = json.loads((results / "lab.json").read_text())

    def seconds(record: dict, name: str) -> str:
        return f"{record['inference'][name]['p50']:.4f} s"

    def step(name: str) -> str:
        return f"{eight['training'][name]['step']:.4f} s"

    ours, vild = "gridclip_r50_ov_1x", "vild_r50_ov"
    amp, amp_cpu = (
        {name: own["AP"] for name, own in lab[part]["summary"].items()}
        for part in ("amp_h100", "amp")
    )
    difference = amp_cpu["bfloat16"]["difference"]
    for page, quoted in (
        (
            "speed",
            f"in float32 takes {seconds(one, ours)}, with ViLD {seconds(one, vild)}; in batches "
            f"of eight in bfloat16 one takes {seconds(eight, ours)}, with ViLD "
            f"{seconds(eight, vild)}.",
        ),
        ("speed", f"bfloat16 takes {step(ours)} an image, with ViLD {step(vild)}."),
        ("training", ", ".join(f"{x['mean']:.1f} in {name}" for name, x in amp.items())),
        (
            "training",
            f"had AP {amp_cpu['float32']['mean']:.1f} in float32 and "
            f"{amp_cpu['bfloat16']['mean']:.1f} in bfloat16, a difference of "
            f"{difference['mean']:+.1f} ± {difference['std']:.1f}",
        ),
    ):
        assert quoted in " ".join((ROOT / f"docs/{page}.md").read_text().split())


def name_problems(text: str) -> Iterator[str]:
    return pages.name_problems(text, ROOT)


BROKEN = {
    "fence": (pages.fence_problems, "```\nmake demo\n```\n"),
    "link": (lambda text: pages.link_problems(text, ROOT), "[data](datasets/READ.md)"),
    "anchor": (lambda text: pages.link_problems(text, ROOT), "[data](datasets/README.md#gone)"),
    "file": (name_problems, "See `gridclip/modeling/gone.py`."),
    "function of a file": (name_problems, "`gridclip/files.py`, `best_pairs()`"),
    "function": (name_problems, "`no_such_function()`"),
    "drawing": (
        pages.mermaid_problems,
        '```mermaid\nflowchart TD\n    a["GridHead.backward()<br>modeling/head.py"]\n```\n',
    ),
    "drawing without a file": (
        pages.mermaid_problems,
        '```mermaid\nflowchart TD\n    a["best_pairs()"]\n```\n',
    ),
    "dotted name": (pages.import_problems, "`gridclip.text.GONE`"),
    "setting": (pages.setting_problems, "`train.max_itr=5`"),
    "argument": (pages.setting_problems, "`model.num_sampled_categories`"),
    "message": (
        pages.message_problems,
        "| message | what to do |\n|---|---|\n| `No such ... in this code` | x |\n",
    ),
    "shell": (pages.shell_syntax_problems, "```sh\nfor x in a b; do\n```\n"),
    "target": (pages.inline_command_problems, "`make demonstration`"),
    "variable": (pages.inline_command_problems, '`make demo NAMES="red star"`'),
    "module": (pages.inline_command_problems, "`python -m laptop_world.gone`"),
}


def test_indented_code_is_shell():
    assert [block.text for block in blocks("Then:\n\n    make a\n\n    make b\n\nEnd.\n")] == [
        "make a\n\nmake b\n"
    ]


@pytest.mark.parametrize(("check", "text"), BROKEN.values(), ids=BROKEN)
def test_broken_pages_are_noticed(check, text):
    assert len(list(check(text))) == 1


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("pyhton train.py", "what is pyhton"),
        ("make demonstration", "make knows no demonstration"),
        ("cd x && python scripts/gone.py", "scripts/gone.py: "),
        ("python scripts/compare_speed.py --jsn F.json", "--json"),
        ("python -m laptop_world.generate --world nether --output D", "invalid choice"),
        (
            "sbatch --nodes 2 scripts/slurm/train.sbatch --config-fle x.py",
            "unrecognized arguments",
        ),
        ("X=1 python projects/GridCLIP/train_net.py --config-file gone.py", "no config gone.py"),
        (
            "python projects/GridCLIP/train_net.py --config-file "
            "projects/GridCLIP/configs/laptop/gridclip.py train.max_itr=5",
            "has no setting train.max_itr",
        ),
    ],
)
def test_broken_commands_are_noticed(line, problem, parse):
    (found,) = [p for words in commands(line) for p in command_problems(words, parse)]
    assert problem in found
