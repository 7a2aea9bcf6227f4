import pickle
from dataclasses import replace
from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.data import DatasetFromList, DatasetMapper, MapDataset
from detectron2.structures import BoxMode
from PIL import Image
from torch.utils.data import DataLoader

from gridclip.data.embedding_store import EmbeddingManifest, EmbeddingStore
from gridclip.data.mapper import GridCLIPDatasetMapper, PictureMapper
from gridclip.data.store import StoreError

MANIFEST = EmbeddingManifest(
    dataset="toy_train",
    image_ids=(4, 9),
    teacher="RN50",
    teacher_sha256="ab" * 32,
    preprocessing="none",
    regions="halves",
    regions_sha256="ef" * 32,
    max_regions=2,
    mirror=True,
    dim=3,
)
WINDOWS = [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)]
PLAIN, MIRRORED = [[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]  # of image 4; 9 has 100 more


@pytest.fixture
def store(tmp_path):
    values = np.array([PLAIN, MIRRORED]).swapaxes(0, 1)[None]
    store = EmbeddingStore.create(tmp_path / "store", MANIFEST)
    store.write([0, 1], [WINDOWS] * 2, [*values, *(values + 100)])
    return str(tmp_path / "store")


@pytest.fixture
def plain_store(tmp_path):
    manifest = replace(MANIFEST, mirror=False)
    store = EmbeddingStore.create(tmp_path / "plain", manifest)
    store.write([0, 1], [WINDOWS] * 2, np.zeros((2, 2, 1, 3)))
    return str(tmp_path / "plain")


@pytest.fixture
def record(tmp_path):
    """Left half black, right half white; a box on the white half."""
    image = np.zeros((20, 40, 3), dtype=np.uint8)
    image[:, 20:] = 255
    Image.fromarray(image).save(tmp_path / "image.png")
    box = dict(bbox=[20, 0, 40, 20], bbox_mode=BoxMode.XYXY_ABS, category_id=2)
    return dict(
        file_name=str(tmp_path / "image.png"),
        image_id=4,
        height=20,
        width=40,
        annotations=[box],
        negative_classes=np.array([0, 1202]),
        not_exhaustive_classes=np.array([2]),
    )


def mapper(store, *augmentations, **kwargs):
    return GridCLIPDatasetMapper(
        True, augmentations=list(augmentations), embeddings=store, **kwargs
    )


def is_mirrored(output):
    return bool(output["image"][:, :, 0].min() == 255)


def test_adds_embeddings_and_federated_classes(store, record):
    output = mapper(store)(record)
    assert output["image_embeddings"].dtype == torch.float32
    assert output["image_embeddings"].tolist() == PLAIN
    assert output["image_windows"].dtype == torch.float32
    assert output["image_windows"].tolist() == [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
    for key, expected in (("negative_classes", [0, 1202]), ("not_exhaustive_classes", [2])):
        assert output[key].dtype == torch.int64 and output[key].tolist() == expected
    assert isinstance(record["negative_classes"], np.ndarray)  # the given record stays as it is


def test_the_rest_is_detectron2s(store, record):
    augmentations = [T.Resize((10, 20)), T.RandomFlip(prob=1.0)]
    output = mapper(store, *augmentations)(record)
    expected = DatasetMapper(True, augmentations=augmentations, image_format="RGB")(record)
    assert torch.equal(output["image"], expected["image"])
    assert torch.equal(output["instances"].gt_boxes.tensor, expected["instances"].gt_boxes.tensor)
    added = {"image_embeddings", "image_windows", "negative_classes", "not_exhaustive_classes"}
    assert set(output) - added == set(expected) - added


def test_pictures_are_read_as_rgb(store, record):
    Image.new("RGB", (40, 20), (255, 0, 0)).save(record["file_name"])
    assert mapper(store)(record)["image"][:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "augmentations, mirrored",
    [
        ([T.RandomFlip(prob=0.0)], False),
        ([T.RandomFlip(prob=1.0)], True),
        ([T.HFlipTransform(40)], True),
        ([T.RandomFlip(prob=1.0), T.Resize((30, 30)), T.RandomFlip(prob=1.0)], False),
        ([T.AugmentationList([T.Resize(30), T.AugmentationList([T.RandomFlip(prob=1.0)])])], True),
        ([T.RandomApply(T.AugmentationList([T.RandomFlip(prob=1.0)]), prob=1.0)], True),
        ([T.RandomApply(T.RandomFlip(prob=1.0), prob=0.0)], False),
        ([T.TransformList([T.HFlipTransform(40), T.TransformList([T.HFlipTransform(40)])])], False),
    ],
)
def test_embeddings_follow_flips(store, record, augmentations, mirrored):
    output = mapper(store, *augmentations)(record)
    assert is_mirrored(output) == mirrored
    assert output["image_embeddings"].tolist() == (MIRRORED if mirrored else PLAIN)


def test_embeddings_follow_random_flips(store, record):
    flipping = mapper(store, T.RandomFlip(prob=0.5))
    outputs = [flipping(record) for _ in range(40)]
    seen = [is_mirrored(output) for output in outputs]
    assert 5 < sum(seen) < 35
    for output, mirrored in zip(outputs, seen, strict=True):
        assert output["image_embeddings"].tolist() == (MIRRORED if mirrored else PLAIN)


@pytest.mark.parametrize(
    "augmentations, windows",
    [
        ([T.CropTransform(5, 0, 30, 20)], [[0, 0, 1 / 2, 1], [1 / 2, 0, 1, 1]]),
        # Exactly half of the left one stays; a pixel less and it goes.
        ([T.CropTransform(10, 0, 30, 20)], [[0, 0, 1 / 3, 1], [1 / 3, 0, 1, 1]]),
        ([T.CropTransform(11, 0, 29, 20)], [[0, 0, 0, 0], [9 / 29, 0, 1, 1]]),
        ([T.CropTransform(15, 0, 10, 20)], [[0, 0, 0, 0], [0, 0, 0, 0]]),
        # Padding is a part of the augmented picture, and no part of a window.
        ([T.PadTransform(0, 0, 40, 20)], [[0, 0, 1 / 4, 1 / 2], [1 / 4, 0, 1 / 2, 1 / 2]]),
        (
            [T.RandomFlip(prob=1.0), T.Resize((40, 80)), T.CropTransform(0, 0, 60, 40)],
            [[0, 0, 2 / 3, 1], [2 / 3, 0, 1, 1]],
        ),
    ],
)
def test_windows_follow_augmentations(store, record, augmentations, windows):
    output = mapper(store, *augmentations)(record)
    assert output["image_windows"].tolist() == torch.tensor(windows).tolist()
    mirrored = any(isinstance(a, T.RandomFlip) for a in augmentations)
    assert output["image_embeddings"].tolist() == (MIRRORED if mirrored else PLAIN)


def test_windows_stay_to_the_last_bit_where_nothing_is_cropped(tmp_path, record):
    windows = np.random.default_rng(0).random((9, 2, 4), dtype=np.float32).cumsum(axis=1)[:, 1] / 2
    windows = np.sort(windows.reshape(9, 2, 2), axis=1).reshape(9, 4)
    store = EmbeddingStore.create(tmp_path / "store", replace(MANIFEST, max_regions=9))
    store.write([0, 1], [windows] * 2, np.zeros((2, 9, 2, 3)))
    own = mapper(str(store.path), T.ResizeShortestEdge((10, 999), 2000), T.RandomFlip())
    for _ in range(50):
        assert np.array_equal(own(record)["image_windows"].numpy(), windows)


def test_windows_are_where_the_picture_shows_them(tmp_path, record):
    """The corner is red; in the mirrored picture that corner shows what is green here."""
    picture = np.zeros((20, 40, 3), dtype=np.uint8)
    picture[:10, :10], picture[:10, 30:] = (255, 0, 0), (0, 255, 0)
    Image.fromarray(picture).save(record["file_name"])
    corner = [[(0.0, 0.0, 0.25, 0.5)]] * 2
    store = EmbeddingStore.create(tmp_path / "store", replace(MANIFEST, max_regions=1))
    store.write([0, 1], corner, np.array([[[[0, 0, 0], [1, 1, 1]]]] * 2))
    scales = dict(target_height=160, target_width=160, interp=Image.Resampling.NEAREST)
    own = mapper(
        str(store.path),
        T.ResizeScale(0.3, 2.0, **scales),
        T.FixedSizeCrop((80, 80)),
        T.RandomFlip(),
    )
    seen = set()
    for _ in range(100):
        output = own(record)
        (window,) = 80 * output["image_windows"]
        mirrored = bool(output["image_embeddings"][0, 0])
        rows, columns = (output["image"][int(mirrored)] == 255).nonzero(as_tuple=True)
        kept = bool(window.any())
        if kept:
            shown = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert window.tolist() == pytest.approx([int(x) for x in shown], abs=1)
        seen.add((mirrored, kept))
    assert len(seen) == 4


def test_an_image_left_without_boxes_keeps_its_embeddings(store, record):
    output = mapper(store)(record | dict(annotations=[], image_id=9))
    assert len(output["instances"]) == 0
    assert output["image_embeddings"][0].tolist() == [100, 101, 102]
    output = mapper(store)(record | dict(negative_classes=[]))
    assert output["negative_classes"].shape == (0,)
    assert output["negative_classes"].dtype == torch.int64


def test_without_store_or_federated_annotation_nothing_is_added(record):
    for key in ("negative_classes", "not_exhaustive_classes"):
        record.pop(key)
    output = mapper(None, T.RandomCrop("relative", (0.5, 0.5)))(record)
    assert set(output) == {"file_name", "image_id", "height", "width", "image", "instances"}


def test_inference_needs_no_embeddings(store, record):
    output = GridCLIPDatasetMapper(False, augmentations=[])(record)
    assert "image_embeddings" not in output and "negative_classes" not in output
    with pytest.raises(ValueError, match="for training"):
        GridCLIPDatasetMapper(False, augmentations=[], embeddings=store)


def test_training_needs_annotations(store, record):
    record.pop("annotations")
    with pytest.raises(ValueError, match="No annotations to train on in .*image.png"):
        mapper(store)(record)


class Shifted(T.Resize):
    """Named like a resize, does something else."""


class Wrapper(T.Augmentation):
    def __init__(self):
        self.tfm = self.aug = T.NoOpTransform()


@pytest.mark.parametrize(
    "augmentation, message",
    [
        (T.RandomCrop_CategoryAreaConstraint("relative", (0.5, 0.5)), "not known"),
        (T.MinIoURandomCrop(), "not known"),
        (T.RandomRotation(10), "RandomRotation .*rotated"),
        (T.RotationTransform(20, 40, 10), "rotated"),
        (T.RandomFlip(prob=0.1, horizontal=False, vertical=True), "RandomFlip .*upside down"),
        (T.VFlipTransform(20), "upside down"),
        (T.GridSampleTransform(np.zeros((2, 2, 2)), "bilinear"), "not known"),
        (Shifted(30), "Shifted .*not known"),
        (Wrapper(), "Wrapper .*not known"),
        (T.AugmentationList([T.Resize(30), T.RandomRotation(10)]), "RandomRotation"),
        (T.RandomApply(T.RandomRotation(10)), "RandomRotation"),
        (T.TransformList([T.NoOpTransform(), T.VFlipTransform(20)]), "VFlipTransform"),
    ],
)
def test_augmentations_that_break_the_correspondence_are_refused(store, augmentation, message):
    with pytest.raises(ValueError, match=message):
        mapper(store, T.RandomFlip(), augmentation)
    mapper(None, augmentation)  # without embeddings there is nothing to break


ALLOWED = [
    T.Resize((20, 30)),
    T.RandomResize([(20, 30)]),
    T.ResizeShortestEdge((10, 20), 40),
    T.ResizeScale(0.5, 1.5, 30, 30),
    T.RandomBrightness(0.5, 1.5),
    T.RandomContrast(0.5, 1.5),
    T.RandomSaturation(0.5, 1.5),
    T.RandomLighting(0.1),
    T.NoOpTransform(),
    T.RandomApply(T.AugmentationList([T.RandomBrightness(0.5, 1.5)])),
    T.RandomCrop("relative", (0.9, 0.9)),
    T.FixedSizeCrop((50, 50)),
    T.PadTransform(1, 1, 1, 1),
    T.RandomExtent((0.5, 1), (0, 0)),
    T.CropTransform(0, 0, 20, 20),
]


def test_allowed_augmentations(plain_store, record):
    output = mapper(plain_store, *ALLOWED, T.RandomFlip(prob=0.0))(record)
    assert output["image_embeddings"].shape == (2, 3)


@pytest.mark.parametrize(
    "flip",
    [T.RandomFlip(), T.HFlipTransform(40), T.RandomApply(T.AugmentationList([T.RandomFlip()]))],
)
def test_flips_need_mirrored_embeddings(plain_store, flip):
    with pytest.raises(StoreError, match="no mirrored images") as info:
        mapper(plain_store, *ALLOWED, flip)
    assert "precompute.py images" in str(info.value)
    assert "--no-mirror" not in str(info.value)


def test_a_missing_or_incomplete_store_is_an_error_at_once(tmp_path):
    with pytest.raises(StoreError, match=f"(?s){tmp_path}.*precompute.py images"):
        mapper(str(tmp_path / "nowhere"))
    EmbeddingStore.create(tmp_path / "begun", MANIFEST)
    with pytest.raises(StoreError, match="0 of 2 rows are done.*image id 4"):
        mapper(str(tmp_path / "begun"))


def test_an_image_that_is_not_in_the_store_is_named(store, record):
    with pytest.raises(StoreError, match="holds no image id 5"):
        mapper(store)(record | dict(image_id=5))


def test_works_from_a_lazy_config(store, record):
    config = LazyCall(GridCLIPDatasetMapper)(
        is_train=True,
        augmentations=[LazyCall(T.RandomFlip)(prob=1.0)],
        embeddings=store,
        use_instance_mask=False,
    )
    assert instantiate(config)(record)["image_embeddings"].tolist() == MIRRORED


def test_a_damaged_picture_is_named(store, record):
    content = Path(record["file_name"]).read_bytes()
    Path(record["file_name"]).write_bytes(content[: len(content) // 2])
    for own in (mapper(store), PictureMapper(False, augmentations=[])):
        with pytest.raises(ValueError, match=r"image\.png can't be read as a picture"):
            own(record)


def test_16_bit_pictures_are_scaled(record):
    values = np.full((20, 40), 257 * 100, dtype=np.uint16)
    Image.fromarray(values).save(record["file_name"])
    output = PictureMapper(False, augmentations=[])(record)
    assert output["image"].unique().tolist() == [100] and output["image"].dtype == torch.uint8
    assert "annotations" not in output


def test_pickled_mapper_carries_no_embeddings(store, record, tmp_path):
    manifest = replace(MANIFEST, image_ids=tuple(range(5000)))
    large = EmbeddingStore.create(tmp_path / "large", manifest)
    large.write(range(5000), [WINDOWS] * 5000, np.ones((5000, 2, 2, 3)))
    data = pickle.dumps(mapper(str(large.path), T.RandomFlip(prob=1.0)))
    assert len(data) < 5000
    assert pickle.loads(data)(record)["image_embeddings"].tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_works_in_worker_processes(store, record, context):
    dataset = MapDataset(
        DatasetFromList([record, record | dict(image_id=9)]),
        mapper(store, T.RandomFlip(prob=1.0)),
    )
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=context)
    found = [output["image_embeddings"][0].tolist() for output in loader]
    assert found == [[6, 7, 8], [106, 107, 108]]
