from functools import lru_cache

import pytest

from gridclip.clip_weights import load_clip
from gridclip.data import teacher


@pytest.fixture(scope="module")
def model(archive):
    return load_clip(archive)[0]


@pytest.fixture(scope="module")
def weights_read_once():
    """The teacher's passes of a module read each file of weights once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "load_clip", lru_cache(load_clip))
        yield
