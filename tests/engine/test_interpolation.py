import pytest
import torch
from torch import nn

from gridclip.engine import GridCLIPCheckpointer
from gridclip.engine.interpolation import interpolate_weights


class Model(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.linear = nn.Linear(width, 2)
        self.norm = nn.BatchNorm1d(2)


@pytest.fixture
def files(tmp_path):
    """Checkpoints of two models of random weights, as the trainer writes them."""
    models = Model(), Model()
    models[1].norm.num_batches_tracked += 7
    for name, model in zip(("before", "after"), models, strict=True):
        nn.init.normal_(model.norm.weight)
        GridCLIPCheckpointer(model, str(tmp_path)).save(name, iteration=3)
    return tmp_path / "before.pth", tmp_path / "after.pth", *models


def mix(files, alpha, output):
    interpolate_weights(*files[:2], alpha, output)
    model = Model()
    GridCLIPCheckpointer(model, trained=True).load(str(output))
    return model.state_dict()


def test_the_ends_are_exact(files, tmp_path):
    for alpha in (0.0, 1.0):
        expected = files[2 + int(alpha)].state_dict()
        found = mix(files, alpha, tmp_path / "new/mixed.pth")
        assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75])
def test_linear_between_the_ends(alpha, files, tmp_path):
    before, after = (model.state_dict() for model in files[2:])
    found = mix(files, alpha, tmp_path / "mixed.pth")
    for key, value in found.items():
        if value.is_floating_point():
            expected = (1 - alpha) * before[key].double() + alpha * after[key].double()
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
    assert found["norm.num_batches_tracked"] == (0 if alpha < 0.5 else 7)


def test_averaged_weights_are_mixed_too_or_refused(files, tmp_path):
    before, after = ({"model": m.state_dict(), "ema": m.state_dict()} for m in files[2:])
    torch.save(before, files[0])
    with pytest.raises(ValueError, match=r"for ema\.\S+ the first has \(.*the second nothing"):
        interpolate_weights(*files[:2], 0.5, tmp_path / "mixed.pth")
    torch.save(after, files[1])
    interpolate_weights(*files[:2], 0.5, tmp_path / "mixed.pth")
    mixed = torch.load(tmp_path / "mixed.pth", weights_only=True)
    assert set(mixed) == {"model", "ema"}
    assert torch.equal(mixed["ema"]["linear.weight"], mixed["model"]["linear.weight"])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.pop("linear.bias"), r"model\.linear\.bias the first has \(2,\) .*nothing"),
        (lambda w: w.update(more=torch.ones(1)), r"model\.more the first has nothing, .*\(1,\)"),
        (lambda w: w.update({"linear.bias": torch.ones(5)}), r"\(2,\) torch.float32.*\(5,\)"),
        (lambda w: w.update({"linear.bias": torch.ones(2).half()}), r"float32, .*torch.float16"),
    ],
)
def test_another_model_is_refused(change, message, files, tmp_path):
    weights = files[3].state_dict()
    change(weights)
    torch.save({"model": weights}, files[1])
    with pytest.raises(ValueError, match=f"not of one model: 1 of the tensors.*{message}"):
        interpolate_weights(*files[:2], 0.5, tmp_path / "mixed.pth")
    assert not (tmp_path / "mixed.pth").exists()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_is_refused(alpha, files, tmp_path):
    with pytest.raises(ValueError, match="alpha is"):
        interpolate_weights(*files[:2], alpha, tmp_path / "mixed.pth")


def test_code_in_a_file_is_refused(files, tmp_path):
    torch.save({"model": files[3]}, files[1])
    with pytest.raises(ValueError, match="may run code"):
        interpolate_weights(*files[:2], 0.5, tmp_path / "mixed.pth")
