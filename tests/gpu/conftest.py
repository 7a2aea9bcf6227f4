"""Tests that run on a GPU, and where it makes sense in the same way on the CPU."""

import pytest
import torch


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no CUDA device")
        for item in items:
            if item.get_closest_marker("gpu"):  # a folder of that name is a keyword, too
                item.add_marker(skip)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return request.param


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """Convolutions in float32 as on the CPU; cuDNN would take TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
