import json

import pytest
from matplotlib.figure import Figure
from PIL import Image

from laptop_world.curves import curve_point, plot_curves, training_seconds
from laptop_world.experiment import CURVES
from laptop_world.tables import VARIANTS


def write_metrics(folder, times):
    lines = [{"iteration": i, "time": 2 * t, "cpu_time": t} for i, t in times]
    text = "\n".join(json.dumps(line) for line in [*lines, {"iteration": 39, "bbox/AP": 1.0}])
    (folder / "metrics.json").write_text(text)


def test_seconds_of_steps_that_were_repeated_count_once(tmp_path):
    """A run killed after step 39 that went on from step 20."""
    write_metrics(tmp_path, [(19, 1.0), (39, 9.0), (39, 2.0), (59, 3.0)])
    assert training_seconds(tmp_path, 60, "cpu") == 120.0
    assert training_seconds(tmp_path, 60, "cuda") == 240.0


def test_no_times_is_an_error(tmp_path):
    write_metrics(tmp_path, [])
    with pytest.raises(ValueError, match="metrics.json"):
        training_seconds(tmp_path, 60, "cpu")


def test_point_has_the_values_of_all_runs():
    runs = [{"AP": 1.0, "APr": 2.0, "APf": 3.0}, {"AP": 3.0, "APr": 4.0, "APf": 7.0}]
    point = curve_point(runs, 2.0, 500)
    assert (point["steps"], point["minutes"]) == (500, 2.0)
    assert {name: point[name]["values"] for name in ("AP", "APr", "APf")} == {
        **{"AP": [1.0, 3.0], "APr": [2.0, 4.0], "APf": [3.0, 7.0]}
    }
    assert point["APf"]["mean"] == 5.0 and point["APf"]["n"] == 2


def test_plot_and_its_legend_inside(tmp_path, monkeypatch):
    figures = []

    class Recorded(Figure):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            figures.append(self)

    monkeypatch.setattr("laptop_world.curves.Figure", Recorded)
    point = curve_point([{"AP": 10.0, "APr": 5.0, "APf": 20.0}], 2.0, 10)
    curve = {"device": "cpu", "processor": "P", "preparation_minutes": 1.0, "points": [point]}
    path = tmp_path / "new" / "plot.png"
    plot_curves(dict.fromkeys(CURVES, curve), VARIANTS, path)
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width > 400
    (figure,) = figures
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    assert len(legend.get_texts()) == len(CURVES)
