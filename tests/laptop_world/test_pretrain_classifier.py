import json

import pytest
import torch

from gridclip.clip_weights import load_clip
from gridclip.files import sha256_of_file
from laptop_world import pretrain_classifier as script
from laptop_world import small_clip
from laptop_world.shapes import CaptionedShapes, load_world


@pytest.fixture(autouse=True)
def smaller(monkeypatch):
    sizes = {**small_clip.SIZES, "vision_width": 8, "image_resolution": 32, "embed_dim": 16}
    for module in (script, small_clip):
        monkeypatch.setattr(module, "SIZES", sizes)


@pytest.mark.parametrize("world", ["dev", "test"])
def test_pictures_are_of_base_categories_alone(world):
    pictures, targets = script.base_pictures(world, 20, "train", seed=3)
    assert pictures.shape == (20, 32, 32, 3) and pictures.dtype == torch.uint8
    whole = load_world(world)
    base = [n for n, axis in zip(whole.names, whole.axes, strict=True) if axis is None]
    drawn = CaptionedShapes(1000, 32, seed=3, max_objects=1)
    of_base = [i for i in range(1000) if drawn.names(i)[0] in base][:20]
    assert [base[i] for i in targets.tolist()] == [drawn.names(i)[0] for i in of_base]
    assert torch.equal(pictures[7], torch.from_numpy(drawn[of_base[7]][0]))


def test_writes_openais_format_and_how_it_was_made(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "BATCH_SIZE", 8)
    path = tmp_path / "new" / "classifier.safetensors"
    numbers = "--pictures 20 --epochs 2 --val 10"
    script.main(["--world", "dev", "--output", str(path), *numbers.split()])
    model, checkpoint = load_clip(path)
    assert model.visual.output_dim == 16
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["sha256"] == sha256_of_file(path) == checkpoint.sha256
    assert record["categories"] == 96 and 0 <= record["accuracy"] <= 1
    assert str(tmp_path) not in json.dumps(record)


def test_learns_to_tell_pictures_apart():
    """Its own training pictures, few of them, after a few passes."""
    args = script.argument_parser().parse_args(
        ["--world", "dev", "--output", "x", "--pictures", "32", "--epochs", "40", "--val", "32"]
    )
    torch.manual_seed(0)
    tower, head = small_clip.build_model().visual, torch.nn.Linear(16, 96)
    script.train(tower, head, args)
    pictures, targets = script.base_pictures("dev", 32, "train", args.seed)
    with torch.no_grad():
        found = head(tower.train()(script.to_inputs(pictures))).argmax(dim=1)
    assert (found == targets).float().mean() > 0.5
