import pytest
import torch

import interpolate_weights


def test_writes_the_weights_between(tmp_path, capsys):
    files = [tmp_path / f"{name}.pth" for name in ("before", "after", "mixed")]
    for value, path in zip((1.0, 5.0), files[:2], strict=True):
        torch.save({"model": {"a": torch.full((2,), value)}, "iteration": 9}, path)
    interpolate_weights.main([*map(str, files[:2]), "--alpha", "0.25", "--output", str(files[2])])
    assert torch.load(files[2], weights_only=True)["model"]["a"].tolist() == [2.0, 2.0]
    assert capsys.readouterr().out == f"{files[2]}\n"
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in files}


def test_a_refusal_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match="^error: No weights at"):
        interpolate_weights.main([str(tmp_path / "a"), "b", "--output", str(tmp_path / "c.pth")])
