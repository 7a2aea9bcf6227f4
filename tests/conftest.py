"""Shared fixtures: seeds, and the real test data where they are at hand."""

import ctypes
import gc
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings


def find_shared_data() -> Path | None:
    """The folder named by GRIDCLIP_TEST_DATA, else shared/data beside the checkout, else None."""
    named = os.environ.get("GRIDCLIP_TEST_DATA")
    if named:
        if not Path(named).is_dir():
            raise pytest.UsageError(f"GRIDCLIP_TEST_DATA={named}: there is no such folder")
        return Path(named).resolve()
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return beside if beside.is_dir() else None


SHARED_DATA = find_shared_data()

# detectron2 reads the variable when it is imported, so a fixture would come too late. A tester's
# own setting gives way: the tests know what is in the small data set.
if SHARED_DATA is not None and (SHARED_DATA / "mini").is_dir():
    os.environ["DETECTRON2_DATASETS"] = str(SHARED_DATA / "mini")

# No test may fail because the machine is busy; and what CI finds, it finds again.
settings.register_profile("gridclip", deadline=None, derandomize=True)
settings.load_profile("gridclip")

# The models are tiny: a second thread costs more than it gives.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: at the end no process is left with a long one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="module")
def freeze_garbage() -> None:
    """What tests of other files have left is not searched again: that would take seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def seed_noise() -> None:
    """``PIL.Image.effect_noise``, which calls C's rand, draws the same, whatever ran before."""
    ctypes.CDLL(None).srand(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real test data; the test is skipped where there is none."""
    if SHARED_DATA is None:
        pytest.skip("no test data: set GRIDCLIP_TEST_DATA to their folder")
    return SHARED_DATA


@pytest.fixture(scope="session")
def mini_datasets(shared_data: Path) -> Path:
    """A DETECTRON2_DATASETS root with 138 COCO photographs and LVIS v1 style annotations."""
    root = shared_data / "mini"
    if not root.is_dir():
        pytest.skip(f"no data set in {shared_data}: {root.name}/ is missing")
    return root


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


TINY_CLIP = dict(
    embed_dim=32,
    image_resolution=64,
    vision_layers=(1, 1, 1, 1),
    vision_width=8,
    transformer_width=64,
    transformer_heads=1,
    transformer_layers=1,
)


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory):
    """Writes an archive in OpenAI's format of a very small CLIP with random weights."""
    from benchmark.random_clip import write_random_clip_archive

    def make(**changes) -> Path:
        path = tmp_path_factory.mktemp("clip") / "tiny.pt"
        write_random_clip_archive(path, **TINY_CLIP | changes)
        return path

    return make


@pytest.fixture(scope="session")
def tiny_clip(make_clip) -> Path:
    """The archive of TINY_CLIP's sizes."""
    return make_clip()


@pytest.fixture(scope="session")
def archive(make_clip) -> Path:
    """The archive of a very small CLIP whose embeddings are 48 wide."""
    return make_clip(embed_dim=48, vision_width=16)


@pytest.fixture(scope="session")
def laptop_clip(tmp_path_factory) -> Path:
    """The laptop world's CLIP with random weights: what it knows is not what is tested."""
    from laptop_world.pretrain_clip import build_model, save

    path = tmp_path_factory.mktemp("laptop_clip") / "shapes_clip.safetensors"
    save(build_model(), path)
    return path


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Folder of twelve drawn pictures and their annotations.json; "blue thing" is rare."""
    from world import draw_world

    folder = tmp_path_factory.mktemp("world")
    draw_world(folder)
    return folder


@pytest.fixture(scope="session")
def small_detector(tmp_path_factory, world, tiny_clip):
    """A predictor whose detector is not trained; "blue thing" is novel, and weighs otherwise."""
    from exported import make_detector

    novel = ("model.classifier.novel_classes=[2]", "model.dense_scores.novel_weight=0.4")
    return make_detector(tmp_path_factory.mktemp("small_detector"), world, tiny_clip, *novel)


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory, small_detector) -> Path:
    """It as an ONNX file, words as an input."""
    from gridclip.export import export

    path = tmp_path_factory.mktemp("exported") / "detector.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gridclip.export.check.SIZES", ((65, 97),))
        export(small_detector, path)
    return path
