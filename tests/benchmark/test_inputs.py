import pytest
import torch
from PIL import Image

from benchmark.inputs import (
    inference_batches,
    random_boxes,
    random_pictures,
    read_pictures,
)


def test_random_pictures_are_seeded_and_not_flat():
    first, second = random_pictures(2, 40, 60, seed=1)
    assert first.shape == (3, 40, 60) and first.dtype == torch.uint8
    assert torch.equal(first, random_pictures(1, 40, 60, seed=1)[0])
    assert not torch.equal(first, second)
    assert first.float().std() > 30


def test_random_boxes_lie_in_the_picture():
    boxes = random_boxes(500, 50, 90, torch.Generator().manual_seed(0))
    assert (boxes >= 0).all() and (boxes <= torch.tensor([90, 50, 90, 50])).all()
    assert (boxes[:, 2:] - boxes[:, :2] > 0).all()


def test_pictures_of_a_folder_are_scaled(tmp_path):
    Image.new("RGB", (100, 50), "red").save(tmp_path / "a.jpg")
    Image.new("RGB", (30, 60)).save(tmp_path / "b.PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    wide, high = read_pictures(tmp_path, 20, 40)
    assert wide.shape == (3, 20, 40) and high.shape == (3, 40, 20)
    assert wide[0].min() > 240 and wide[1:].max() < 15  # RGB


def test_a_folder_without_pictures_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        read_pictures(tmp_path, 20, 40)


def test_the_last_batch_is_filled_up():
    pictures = random_pictures(3, 8, 8)
    batches = inference_batches(pictures, 2)
    assert [len(batch) for batch in batches] == [2, 2]
    assert torch.equal(batches[1][1]["image"], pictures[0])
