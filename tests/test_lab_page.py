"""docs/lab.md: its figures are those of the result files and the configs, its sums are right."""

import json
import re

import pytest

import pages
from benchmark.cost import LVIS_TRAIN_IMAGES
from pages import PROJECT, ROOT

TEXT = (ROOT / "docs/lab.md").read_text()
LVIS_VAL_IMAGES = 19_809


def row(start: str) -> list[str]:
    """The cells of the table's row that starts so, without stars."""
    (line,) = [line for line in TEXT.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip(" *") for cell in line.strip("|").split("|")]


def numbers(cell: str) -> list[float]:
    return [float(x.replace(",", "")) for x in re.findall(r"\d[\d,]*\.?\d*", cell)]


@pytest.fixture(scope="module")
def steps() -> dict[int, dict]:
    """The runs in bfloat16 by their batch."""
    record = json.loads((PROJECT / "results/first_steps_h100.json").read_text())
    return {r["batch_size"]: r for r in record["runs"] if r["precision"] == "bfloat16"}


def test_hours_of_the_training(steps):
    train = pages.load_config("lvis/gridclip_r50_ov_1x.py")
    length, batch = train.train.max_iter, train.dataloader.train.total_batch_size
    _, _, arithmetic, one, eight = row("training, 1x")
    eight_pictures, two_pictures = (steps[n]["seconds_a_step"] for n in (8, 2))
    assert numbers(arithmetic) == [length, batch, 8, round(eight_pictures, 3), 2] + [
        round(two_pictures, 3)
    ]
    assert numbers(one) == [round(length * batch / 8 * eight_pictures / 3600, 1)]
    assert numbers(eight) == [round(length * two_pictures / 3600, 1)]


def test_hours_of_the_windows():
    on_cpu = json.loads((PROJECT / "results/teacher_passes_cpu.json").read_text())
    on_gpu = json.loads((PROJECT / "results/speed_h100.json").read_text())["teacher_passes"]
    seconds = on_gpu["per_image"]["tiles9"]["seconds"]
    hours = LVIS_TRAIN_IMAGES * seconds / 3600
    _, size, arithmetic, one, eight = row("windows' embeddings")
    assert numbers(size)[0] == round(on_cpu["per_image"]["tiles9"]["lvis_train_gb"], 1)
    assert numbers(arithmetic) == [LVIS_TRAIN_IMAGES, round(seconds, 3)]
    assert (numbers(one), numbers(eight)) == ([round(hours, 1)], [round(hours / 8, 1)])


def test_hours_of_the_evaluations(steps):
    train = pages.load_config("lvis/gridclip_r50_ov_1x.py").train
    times, seconds = train.max_iter // train.eval_period, steps[8]["seconds_a_step"]
    _, _, arithmetic, one, eight = row("three evaluations")
    assert times == 3 and numbers(arithmetic) == [times, LVIS_VAL_IMAGES, round(seconds, 3), 8]
    hours = times * LVIS_VAL_IMAGES * seconds / 8 / 3600
    assert (numbers(one), numbers(eight)) == ([round(hours, 1)], [round(hours / 8, 1)])


def test_sums():
    names = ("`.venv`", "COCO's pictures", "windows' embeddings", "training, 1x", "three eval")
    rows, total = [row(name) for name in names], row("**sum**")
    assert sum(numbers(r[1])[0] for r in rows) == pytest.approx(numbers(total[1])[0], abs=0.5)
    for column in (3, 4):
        hours = sum(numbers(r[column])[0] for r in rows)
        assert hours == pytest.approx(numbers(total[column])[0], abs=0.01)


def test_the_first_step(steps):
    run = steps[8]
    names = re.search(r"\| (`total_loss`.*) \|\n\|[-|]+\|\n\| (.*) \|", TEXT)
    losses = [name.strip("` ") for name in names[1].split("|")][:-1]
    values = [float(value) for value in names[2].split("|")]
    assert values == [*(round(run["losses"][k][0], 2) for k in losses), round(run["positives"][0])]
    assert losses == sorted(run["losses"], key=lambda k: -run["losses"][k][0])
    last = re.search(r"After 20 steps of the warm-up `total_loss` was ([\d.]+)\.", TEXT)
    assert len(run["losses"]["total_loss"]) == 20
    assert float(last[1]) == round(run["losses"]["total_loss"][-1], 2)


def test_checkpoints_and_pictures_a_second(steps):
    keeps = pages.load_config("lvis/gridclip_r50_ov_1x.py").train.checkpointer
    assert keeps.max_to_keep == 3 and f"{keeps.period:,} steps, `train.checkpointer.period`" in TEXT
    wanted = int(8 / steps[8]["seconds_a_step"])
    assert f"one H100 would want {wanted} a second" in TEXT


def test_two_screens():
    assert len(TEXT.splitlines()) <= 120
