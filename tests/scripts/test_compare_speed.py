import json

import pytest
from detectron2.config import LazyConfig

import compare_speed
from benchmark import ratios
from benchmark.roster import CONFIGS, ONE_X, VILD
from benchmark.tables import speed_table


@pytest.fixture
def tiny_configs(tmp_path, tiny_clip):
    """gridclip.yaml and vild.yaml: the production configs at a very small size."""
    paths = []
    for name, source in (("gridclip", "gridclip_r50_ov_1x"), ("vild", "vild_r50_ov")):
        cfg = LazyConfig.load(str(CONFIGS / f"{source}.py"))
        cfg.clip.weights = str(tiny_clip)
        cfg.clip.text_embeddings = str(tmp_path / "not_there.safetensors")
        cfg.model.backbone.bottom_up.update(
            layers=(1, 1, 1, 1), width=8, embed_dim=32, input_resolution=64
        )
        cfg.model.backbone.out_channels = 64
        cfg.model.classifier.embed_dim = 32
        if name == "gridclip":
            cfg.model.head.conv_dims = [64]
        else:
            cfg.model.roi_heads.box_head.update(conv_dims=[64], fc_dims=[64])
            cfg.model.roi_heads.box_predictor.input_shape.channels = 64
            cfg.model.roi_heads.batch_size_per_image = 32
            cfg.model.proposal_generator.post_nms_topk = [50, 50]
        paths.append(tmp_path / f"{name}.yaml")
        LazyConfig.save(cfg, str(paths[-1]))
    return paths


@pytest.mark.slow
def test_two_configs_are_compared_and_all_is_written(tiny_configs, tmp_path, capsys):
    """Times mean nothing here; what follows from what does."""
    path = tmp_path / "out/speed.json"
    command = f"--device cpu --size 64 96 --runs 3 --batch-size 2 --quick --json {path}"
    compare_speed.main(["--config-file", *map(str, tiny_configs), *command.split()])
    record = json.loads(path.read_text())
    assert set(record["ratios"]) == set(ratios.over_first(["gridclip", "vild"]))
    inference, training = record["inference"], record["training"]
    for measured in inference.values():
        assert len(measured["seconds"]) == 3 and measured["detections_per_image"] > 0
        assert sum(measured["stages"].values()) == pytest.approx(measured["p50"], rel=1)
    for step in training.values():
        assert step["forward"] > 0 and step["backward"] > 0 and step["optimizer"] > 0
        assert len(step["seconds"]) == 1
    assert record["contestants"]["vild"]["text_embeddings"] == "random"
    assert record["contestants"]["vild"]["weights"].startswith("random")
    assert record["contestants"]["vild"]["post_processing"]["test_score_thresh"] == 0
    cost = record["training_cost"]
    assert (
        cost["gridclip"]["images_seen"] == 1_440_000 and cost["vild"]["images_seen"] == 46_080_000
    )
    passes = record["teacher_passes"]["per_image"]
    for key, name in (("gridclip", "tiles9"), ("vild", "regions")):
        assert cost[key]["teacher_seconds"] == pytest.approx(100_170 * passes[name]["seconds"])
    assert record["ratios"]["training_total_vild_over_gridclip"] == pytest.approx(
        cost["vild"]["over_first"]["total"]
    )
    assert training["gridclip"]["image_level_term"]["seconds"] > 0
    assert record["setup"]["size"] == [64, 96] and record["setup"]["versions"]["torch"]
    assert str(tmp_path) not in json.dumps(record)
    with open(path.with_suffix(".png"), "rb") as picture:
        assert picture.read(4) == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "inference_vild_over_gridclip_matched" in printed and "cheaper teacher" in printed
    assert "| gridclip | " in speed_table(
        {**record, "memory": record["memory"] | {"vild": record["memory"]["gridclip"]}}
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--config-file {one}", "at least two"),
        ("--config-file {one} {one}", "different names"),
        ("--config-file {one} nowhere.py", "there is no nowhere.py"),
        ("--weights a.pth", "one for each"),
        ("--config-file {one} {two} --weights a.pth", "one for each"),
    ],
)
def test_arguments(arguments, said, capsys):
    names = {"one": ONE_X, "two": VILD}
    with pytest.raises(SystemExit):
        compare_speed.parse_args([*arguments.format(**names).split(), "--json", "speed.json"])
    assert said in capsys.readouterr().err


def test_quick_is_smaller():
    quick = compare_speed.parse_args(["--quick", "--json", "speed.json"])
    whole = compare_speed.parse_args(["--json", "speed.json"])
    assert tuple(whole.size) == (800, 1333) and quick.size[0] < 800 and quick.runs < whole.runs
    own = compare_speed.parse_args("--quick --size 9 8 --runs 7 --json speed.json".split())
    assert own.size == [9, 8] and own.runs == 7
