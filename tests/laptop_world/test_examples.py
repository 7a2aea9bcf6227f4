import json

import numpy as np
import pytest

from gridclip.files import write_json
from laptop_world import examples
from laptop_world.shapes import load_world

AXES = load_world("dev").axes
NOVEL = {i for i, axis in enumerate(AXES) if axis is not None}


@pytest.fixture(scope="module")
def drawn():
    return examples.draw_examples("dev", 0, 2)


def test_every_novel_category_has_examples_and_no_other(drawn):
    assert set(drawn) == NOVEL
    for own in drawn.values():
        assert len(own) == 2
        for picture, (x0, y0, x1, y1) in own:
            assert picture.shape == (128, 128, 3) and picture.dtype == np.uint8
            assert 0 <= x0 <= x1 - 8 and x1 <= 128 and 0 <= y0 <= y1 - 8 and y1 <= 128


def test_fewer_are_the_first_and_another_seed_has_others(drawn):
    one = examples.draw_examples("dev", 0, 1)
    other = examples.draw_examples("dev", 1, 1)
    assert all(one[i][0][1] == drawn[i][0][1] for i in NOVEL)
    assert all(one[i][0][1] != other[i][0][1] for i in NOVEL)


def test_queries_change_novel_names_alone(drawn):
    names = [" ".join(name) for name in load_world("dev").names]
    kinds = dict(examples.queries(names, {i: own * 3 for i, own in drawn.items()}))
    assert list(kinds) == [
        *("word", "1 example", "1 example and word", "5 examples", "5 examples and word")
    ]
    for kind, by_name in kinds.items():
        assert list(by_name) == names
        for i, (name, query) in enumerate(by_name.items()):
            if i not in NOVEL or kind == "word":
                assert query == name
            else:
                parts = [part for part in query if part == name], len(query)
                assert parts == ([name] * ("word" in kind), int(kind[0]) + ("word" in kind))


def test_report(tmp_path, monkeypatch, capsys):
    metrics = {"AP": 50.0, "APr": 40.0, "APf": 60.0, "APr_shape": 30.0, "AP75": 1.0}

    def measure(cfg, seed):
        assert cfg.shapes.world == "dev"
        assert cfg.train.init_checkpoint == str(tmp_path / f"seed{seed}.json")
        return {kind: {k: v + seed for k, v in metrics.items()} for kind in ("word", "1 example")}

    monkeypatch.setattr(examples, "measure", measure)
    for seed in (0, 1):
        write_json(tmp_path / f"seed{seed}.json", seed)
    output = tmp_path / "examples.json"
    detectors = ["--detectors", str(tmp_path / "seed{seed}.json")]
    examples.main([*detectors, "--world", "dev", "--seeds", "0", "1", "--output", str(output)])
    report = json.loads(output.read_text())
    cell = report["queries"]["1 example"]["APr"]
    assert cell["values"] == [40.0, 41.0] and cell["n"] == 2 and report["seeds"] == [0, 1]
    assert set(report["queries"]["word"]) == {"AP", "APr", "APf", "APr_shape"}
    assert len(set(report["detectors_sha256"].values())) == 2
    assert "1 example" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="No weights at"):
        examples.main([*detectors, "--seeds", "7", "--output", str(output)])
    with pytest.raises(SystemExit):
        examples.main([*detectors, "--world", "dev"])
