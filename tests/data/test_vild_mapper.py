import pickle

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode
from PIL import Image

from gridclip.data import ViLDDatasetMapper
from gridclip.data.embedding_store import EmbeddingManifest, EmbeddingStore
from gridclip.data.store import StoreError

# Left half, a box in the middle and one at the lower right corner, of a picture of 40 x 20 pixels.
BOXES = [[0, 0, 20, 20], [16, 8, 24, 12], [30, 10, 40, 20]]
EMBEDDINGS = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.fixture
def store(tmp_path):
    manifest = EmbeddingManifest(
        dataset="toy_train",
        image_ids=(4, 9),
        teacher="RN50",
        teacher_sha256="ab" * 32,
        preprocessing="none",
        dim=3,
        regions="proposals",
        regions_sha256="cd" * 32,
        max_regions=3,
        mirror=False,
    )
    store = EmbeddingStore.create(tmp_path / "store", manifest)
    embeddings = np.array(EMBEDDINGS)[:, None]
    store.write([0, 1], [BOXES, np.empty((0, 4))], [embeddings, np.empty((0, 1, 3))])
    return str(tmp_path / "store")


@pytest.fixture
def record(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    annotations = [
        dict(bbox=list(map(float, box)), bbox_mode=BoxMode.XYXY_ABS, category_id=i)
        for i, box in enumerate(BOXES)
    ]
    return dict(
        file_name=str(tmp_path / "image.png"),
        image_id=4,
        height=20,
        width=40,
        annotations=annotations,
    )


def mapper(store, *augmentations, **kwargs):
    return ViLDDatasetMapper(True, augmentations=list(augmentations), embeddings=store, **kwargs)


def test_adds_regions(store, record):
    output = mapper(store)(record)
    assert output["region_boxes"].dtype == output["region_embeddings"].dtype == torch.float32
    assert output["region_boxes"].tolist() == BOXES
    assert output["region_embeddings"].tolist() == EMBEDDINGS


def test_the_rest_is_detectron2s(store, record):
    augmentations = [T.Resize((10, 20)), T.RandomFlip(prob=1.0)]
    output = mapper(store, *augmentations)(record)
    expected = DatasetMapper(True, augmentations=augmentations, image_format="RGB")(record)
    assert torch.equal(output["image"], expected["image"])
    assert set(output) == set(expected) | {"region_boxes", "region_embeddings"}


@pytest.mark.parametrize(
    "augmentations, boxes",
    [
        ([T.RandomFlip(prob=1.0)], [[20, 0, 40, 20], [16, 8, 24, 12], [0, 10, 10, 20]]),
        ([T.Resize((40, 40))], [[0, 0, 20, 40], [16, 16, 24, 24], [30, 20, 40, 40]]),
        (
            [T.RandomFlip(prob=1.0), T.Resize((40, 80))],
            [[40, 0, 80, 40], [32, 16, 48, 24], [0, 20, 20, 40]],
        ),
        # Of the left half 3/4 stay, of the middle all, of the corner nothing.
        ([T.CropTransform(5, 0, 20, 20)], [[0, 0, 15, 20], [11, 8, 19, 12]]),
        # The left half: exactly half of it stays; a pixel less and it goes.
        ([T.CropTransform(10, 0, 14, 20)], [[0, 0, 10, 20], [6, 8, 14, 12]]),
        ([T.CropTransform(11, 0, 13, 20)], [[5, 8, 13, 12]]),
        ([T.CropTransform(25, 0, 5, 5)], []),
        # Padding is no part of a region.
        ([T.PadTransform(2, 3, 8, 9)], [[2, 3, 22, 23], [18, 11, 26, 15], [32, 13, 42, 23]]),
    ],
)
def test_regions_follow_augmentations(store, record, augmentations, boxes):
    output = mapper(store, *augmentations)(record)
    assert output["region_boxes"].tolist() == boxes
    where = torch.tensor(EMBEDDINGS, dtype=torch.float32)
    kept = [0, 1, 2] if len(boxes) == 3 else [0, 1] if len(boxes) == 2 else [1][: len(boxes)]
    assert torch.equal(output["region_embeddings"], where[kept])


def test_regions_follow_large_scale_jitter_as_annotations_do(store, record):
    """The annotations are the same boxes: detectron2 moves them, independently of us."""
    augmentations = [
        T.ResizeScale(0.3, 2.0, 60, 60),
        T.FixedSizeCrop((30, 30), pad=True),
        T.RandomFlip(),
    ]
    jittered, cut = mapper(store, *augmentations), 0
    for _ in range(50):
        output = jittered(record)
        height, width = output["image"].shape[1:]
        moved = {
            int(c): box.tolist()
            for c, box in zip(
                output["instances"].gt_classes, output["instances"].gt_boxes.tensor, strict=True
            )
        }
        kept = output["region_embeddings"].argmax(dim=1).tolist()
        for region, box in zip(kept, output["region_boxes"].tolist(), strict=True):
            assert box == pytest.approx(moved[region], abs=1e-3)
            assert 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height
        cut += len(kept) < 3
    assert 5 < cut


def test_images_without_regions(store, record):
    output = mapper(store, T.RandomFlip(prob=1.0), T.Resize((10, 20)))(record | dict(image_id=9))
    assert output["region_boxes"].shape == (0, 4)
    assert output["region_embeddings"].shape == (0, 3)
    assert output["region_boxes"].dtype == output["region_embeddings"].dtype == torch.float32


def test_images_without_boxes_keep_their_regions(store, record):
    output = mapper(store)(record | dict(annotations=[]))
    assert len(output["instances"]) == 0 and output["region_boxes"].tolist() == BOXES


def test_without_a_store_nothing_is_added_or_refused(record):
    output = mapper(None, T.RandomRotation(10))(record)
    assert set(output) == {"file_name", "image_id", "height", "width", "image", "instances"}


def test_training_needs_annotations(store, record):
    record.pop("annotations")
    with pytest.raises(ValueError, match="No annotations to train on in .*image.png"):
        mapper(store)(record)


def test_inference_takes_no_store(store, record):
    assert "region_boxes" not in ViLDDatasetMapper(False, augmentations=[])(record)
    with pytest.raises(ValueError, match="for training"):
        ViLDDatasetMapper(False, augmentations=[], embeddings=store)


class Shifted(T.Resize):
    """Named like a resize, does something else."""


@pytest.mark.parametrize(
    "augmentation, message",
    [
        (T.RandomRotation(10), "RandomRotation .*rotated"),
        (T.RotationTransform(20, 40, 10), "RotationTransform .*rotated"),
        (T.RandomFlip(horizontal=False, vertical=True), "upside down"),
        (T.VFlipTransform(20), "upside down"),
        (Shifted(30), "Shifted .*not known"),
        (T.AugmentationList([T.RandomApply(T.RandomRotation(10))]), "RandomRotation .*rotated"),
    ],
)
def test_augmentations_that_break_the_correspondence_are_refused(store, augmentation, message):
    with pytest.raises(ValueError, match=message):
        mapper(store, T.RandomFlip(), augmentation)


def test_a_missing_store_or_image_is_named(store, record, tmp_path):
    with pytest.raises(StoreError, match=f"(?s){tmp_path}/gone.*precompute.py regions"):
        mapper(str(tmp_path / "gone"))
    with pytest.raises(StoreError, match="holds no image id 5"):
        mapper(store)(record | dict(image_id=5))


def test_works_from_a_lazy_config_and_pickled(store, record):
    config = LazyCall(ViLDDatasetMapper)(
        is_train=True, augmentations=[LazyCall(T.NoOpTransform)()], embeddings=store
    )
    made = instantiate(config)
    for own in (made, pickle.loads(pickle.dumps(made))):
        assert own(record)["region_boxes"].tolist() == BOXES
