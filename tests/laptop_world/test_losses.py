import json
import math

import pytest
from PIL import Image

from gridclip.evaluation.charts import read_metrics
from laptop_world.losses import plot_losses


def write_metrics(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_plot_losses(tmp_path):
    records = [
        {
            "iteration": i,
            "lr": 0.01,
            "total_loss": 0.2 + math.exp(-i / 50),
            "loss_cls": math.exp(-i / 50),
            "loss_box": 0.2,
            "bbox/AP": math.nan,
        }
        for i in range(0, 200, 20)
    ]
    metrics_json = write_metrics(tmp_path / "metrics.json", records)
    png = plot_losses(metrics_json, tmp_path / "new" / "losses.png")
    assert [p.name for p in png.parent.iterdir()] == ["losses.png"]
    picture = Image.open(png)
    assert (picture.format, picture.size) == ("PNG", (1200, 825))
    # A black line for the total, a colored one for each loss.
    colors = {color for _, color in picture.convert("RGB").getcolors(2**24)}
    assert {(0, 0, 0), (0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)} <= colors


def test_a_resumed_and_a_cut_record(tmp_path, caplog):
    path = write_metrics(
        tmp_path / "metrics.json",
        [
            {"iteration": 19, "loss_cls": 3.0, "lr": 0.1},
            {"iteration": 39, "loss_cls": 2.0, "lr": 0.1},
            {"iteration": 59, "loss_cls": math.nan},
            {"iteration": 39, "loss_cls": 1.0},
            {"iteration": 39, "bbox/AP": 5.0},
        ],
    )
    path.write_text(path.read_text() + '{"iteration": 79, "loss_c')
    scalars = read_metrics(path)
    assert list(scalars["loss_cls"].items()) == [(19, 3.0), (39, 1.0)]
    assert list(scalars["lr"].items()) == [(19, 0.1), (39, 0.1)]
    assert "skipped 1 line" in caplog.text
    assert plot_losses(path, tmp_path / "losses.png").is_file()


def test_errors_of_plotting(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        plot_losses(tmp_path / "metrics.json", tmp_path / "losses.png")
    path = write_metrics(tmp_path / "metrics.json", [{"iteration": 0, "bbox/AP": 1.0}])
    with pytest.raises(ValueError, match=r"metrics\.json records no loss"):
        plot_losses(path, tmp_path / "losses.png")
    assert not (tmp_path / "losses.png").exists()
