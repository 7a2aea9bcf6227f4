"""Charts of runs: which values they show, in which colours."""

import json
import math

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from gridclip.evaluation.charts import (
    colors_of,
    groups_of,
    plot_confusions,
    plot_curves,
    plot_differences,
    plot_groups,
)

RUNS = colors_of(["one", "two", "three"])


def pixels(png, color):
    """Where a chart has a colour: (H, W) bool."""
    drawn = np.asarray(Image.open(png).convert("RGB")) / 255
    return (np.abs(drawn - to_rgb(color)) < 0.02).all(axis=2)


def write_metrics(path, losses, **others):
    rows = [{"iteration": i, "total_loss": x, **others} for i, x in enumerate(losses)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_groups_are_all_categories_and_parts_of_them():
    metrics = "AP AP50 AP75 APs APm APl APr APc APf AP_novel AP50_novel AP_base APr_shape".split()
    assert groups_of(dict.fromkeys(metrics, 0.0)) == [
        *("AP", "APr", "APc", "APf", "AP_novel", "AP_base", "APr_shape")
    ]


def test_bars_are_as_long_as_their_values(tmp_path):
    runs = {"one": {"AP": 50.0, "APr": math.nan}, "two": {"AP": 25.0, "AP_x": 10.0}}
    plot_groups(runs, RUNS, tmp_path / "new" / "bars.png")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["bars.png"]
    long, short = (
        pixels(tmp_path / "new/bars.png", RUNS[run])[60:].sum(axis=1) for run in ("one", "two")
    )
    assert long.max() == pytest.approx(2 * short.max(), abs=4)
    assert short[short > 0].min() == pytest.approx(short.max() * 10 / 25, abs=4)


def test_each_run_has_its_own_color_in_curves(tmp_path):
    runs = {
        "one": write_metrics(tmp_path / "1.json", [4, 3, 2], loss_cls=1.0, lr=0.1),
        "three": write_metrics(tmp_path / "3.json", [2, 1, 1], loss_box=1.0, lr=0.1),
    }
    plot_curves(runs, RUNS, tmp_path / "curves.png")
    there = {run: pixels(tmp_path / "curves.png", color).any() for run, color in RUNS.items()}
    assert there == {"one": True, "two": False, "three": True}
    empty = write_metrics(tmp_path / "empty.json", [])
    with pytest.raises(ValueError, match=r"No loss is recorded in .*empty\.json"):
        plot_curves({"one": empty}, RUNS, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_panel_of_ap_where_it_was_measured_in_training(tmp_path):
    path = write_metrics(tmp_path / "metrics.json", [3, 2, 1])
    plot_curves({"one": path}, RUNS, tmp_path / "without.png")
    with path.open("a") as file:
        file.writelines(f'{{"iteration": {i}, "bbox/AP": {10 * i}}}\n' for i in (1, 2))
    plot_curves({"one": path}, RUNS, tmp_path / "with.png")
    widths = [Image.open(tmp_path / name).width for name in ("without.png", "with.png")]
    assert widths[1] == 2 * widths[0]


def test_differences_show_both_values(tmp_path):
    values = {"one": [10.0, 60.0], "three": [30.0, 20.0]}
    plot_differences(values, ["a $ and a $", "★ b"], RUNS, tmp_path / "chart.png")
    rows = {}
    for run, color in (("one", RUNS["one"]), ("three", RUNS["three"])):
        found = pixels(tmp_path / "chart.png", color)[60:]
        height = found.shape[0] // 2 - 30
        rows[run] = [np.nonzero(part)[1].mean() for part in (found[:height], found[height:])]
    scale = (rows["one"][1] - rows["one"][0]) / 50  # pixels a point of AP
    assert rows["three"][0] == pytest.approx(rows["one"][0] + 20 * scale, abs=3)
    assert rows["three"][1] == pytest.approx(rows["one"][1] - 40 * scale, abs=3)


def test_heat_map_is_dark_where_shares_are_large(tmp_path):
    shares = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [math.nan] * 3])
    plot_confusions(shares, list("abc"), list("xyz"), tmp_path / "map.png")
    dark = pixels(tmp_path / "map.png", (8 / 255, 48 / 255, 107 / 255))  # the end of the colour map
    ys, xs = np.nonzero(dark)
    middle = np.mean([ys.min(), ys.max()])
    first, second = xs[ys < middle - 3], xs[ys > middle + 3]
    assert first.max() < second.min()
    assert len(first) == pytest.approx(len(second), rel=0.05)
