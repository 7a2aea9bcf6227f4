import pytest
import torch

from benchmark import comparison
from benchmark.contestants import Contestant, from_config
from benchmark.roster import ONE_X


def test_variants_of_the_default_comparison(tiny, batch, monkeypatch):
    monkeypatch.setattr(comparison, "LARGE_VOCABULARY", 40)
    settings = comparison.Settings(
        configs=[],
        weights=None,
        image_dir=None,
        size=(64, 96),
        batch_size=1,
        runs=1,
        device="cpu",
        dtype="float32",
        compile=False,
        quick=False,
    )
    model = tiny("gridclip")
    contestants = [Contestant("gridclip", "GridCLIP R50", from_config)]
    variants = comparison.inference_variants(settings, contestants, {"gridclip": model}, batch)
    large = variants.pop("gridclip_21k")
    assert large.model.num_classes == 40 and large.title == "GridCLIP R50, 40 categories"
    assert {key: v.options for key, v in variants.items()} == {
        "gridclip": {"dtype": torch.float32, "compile": False},
        "gridclip_bfloat16": {"dtype": torch.bfloat16, "compile": False},
        "gridclip_float16": {"dtype": torch.float16, "compile": False},
        "gridclip_compiled": {"dtype": torch.float32, "compile": True},
    }
    assert all(v.model is model for v in variants.values())


@pytest.mark.slow
def test_large_vocabulary_is_a_model_of_its_own(monkeypatch):
    monkeypatch.setattr(comparison, "LARGE_VOCABULARY", 1500)
    model = from_config(ONE_X).eval()
    large = comparison.with_large_vocabulary(
        model, [{"image": torch.randint(256, (3, 64, 64), dtype=torch.uint8)}]
    )
    assert model.num_classes == 1203 and large.num_classes == 1500
