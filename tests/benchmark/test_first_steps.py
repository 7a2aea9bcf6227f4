import json

import pytest

from benchmark import first_steps
from benchmark.contestants import load_config, random_text_embeddings


@pytest.fixture
def small(monkeypatch):
    """LVIS's config with a very small model and few names."""

    def load(path):
        cfg = load_config(path)
        cfg.model.backbone.bottom_up.update(
            layers=(1, 1, 1, 1), width=8, embed_dim=32, input_resolution=64
        )
        cfg.model.backbone.out_channels = 64
        cfg.model.head.conv_dims = [64]
        cfg.model.classifier.embed_dim = 32
        return cfg

    monkeypatch.setattr(first_steps, "load_config", load)
    monkeypatch.setattr(first_steps, "text_embeddings", lambda _: random_text_embeddings(9, 32))


def test_runs_differ_in_the_batch_alone_and_follow_the_schedule(small, tmp_path):
    path = tmp_path / "steps.json"
    sizes = "--size 64 96 --batch-sizes 1 2 1 --steps 4 --device cpu"
    first_steps.main(f"{sizes} --json {path}".split())
    record = json.loads(path.read_text())
    one, two, again = record["runs"]
    assert (record["size"], record["categories"]) == ([64, 96], 9)
    assert [run["batch_size"] for run in record["runs"]] == [1, 2, 1]
    for run in record["runs"]:
        assert run["precision"] == "float32" and run["peak_mib"] is None
        assert len(run["seconds"]) == 4
        assert run["seconds_a_step"] == pytest.approx(sum(run["seconds"][2:]) / 2)
        assert set(run["losses"]) == {
            *("total_loss", "loss_grid_alignment", "loss_box_reg"),
            *("loss_box_distribution", "loss_quality", "loss_image_alignment"),
        }
        # The whole run's warm-up, 5,000 steps from a thousandth of 1e-4.
        expected = [1e-4 * (0.001 + 0.999 * step / 5_000) for step in range(4)]
        assert run["lr"] == pytest.approx(expected)
    assert one["losses"]["total_loss"] == pytest.approx(again["losses"]["total_loss"])
    # The first batch of two is the first two batches of one.
    assert two["positives"][0] == pytest.approx(sum(one["positives"][:2]) / 2)


def test_too_few_steps_are_refused(small, tmp_path, capsys):
    with pytest.raises(SystemExit):
        first_steps.main(f"--steps 2 --json {tmp_path / 'x.json'}".split())
    assert "more than 2" in capsys.readouterr().err
