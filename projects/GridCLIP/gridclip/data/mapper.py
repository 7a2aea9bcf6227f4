"""Dataset mappers: detectron2's, with the teacher's embeddings and LVIS's federated annotation."""

import copy
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import check_image_size
from detectron2.data.transforms.augmentation import _TransformToAug
from numpy.typing import NDArray

from gridclip.data.embedding_store import EmbeddingStore
from gridclip.data.regions import PROPOSALS
from gridclip.pictures import read_picture

Augmentation: TypeAlias = T.Augmentation | T.Transform

# Exact types only: what a subclass does is unknown. T.RandomFlip depends on its direction.
_ALLOWED = {
    T.Resize,
    T.ResizeShortestEdge,
    T.ResizeScale,
    T.RandomResize,
    T.RandomBrightness,
    T.RandomContrast,
    T.RandomSaturation,
    T.RandomLighting,
    T.NoOpTransform,
    T.ResizeTransform,
    T.BlendTransform,
    T.HFlipTransform,
    T.RandomCrop,
    T.CropTransform,
    T.FixedSizeCrop,
    T.PadTransform,
    T.RandomExtent,
    T.ExtentTransform,
}
_REASONS = {
    "what a rotated picture or box shows has another embedding": {
        T.RandomRotation,
        T.RotationTransform,
    },
    "the store has no embeddings of what is upside down": {T.RandomFlip, T.VFlipTransform},
}
MIN_VISIBLE = 0.5


class PictureMapper(DatasetMapper):
    """detectron2's mapper of pictures and boxes, which reads pictures as
    :func:`gridclip.pictures.read_picture` does: a damaged one is an error that names it."""

    def __init__(self, is_train: bool, *, augmentations: list[Augmentation], **kwargs):
        """Arguments as of ``DatasetMapper``, without its ``image_format``: pictures are RGB."""
        super().__init__(is_train, augmentations=augmentations, image_format="RGB", **kwargs)

    def __call__(self, dataset_dict: dict) -> dict:
        record = copy.deepcopy(dataset_dict)
        picture = read_picture(record["file_name"])
        check_image_size(record, picture)
        augmented = T.AugInput(picture)
        transforms = self.augmentations(augmented)
        # Contiguous memory travels between processes; an array's strides may be negative.
        chw = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        record["image"] = torch.as_tensor(chw)
        if self.is_train:
            self._transform_annotations(record, transforms, augmented.image.shape[:2])
        else:
            for field in ("annotations", "negative_classes", "not_exhaustive_classes"):
                record.pop(field, None)
        return record


class TeacherMapper(PictureMapper):
    """A mapper that in training adds what an embedding store holds of a picture.

    In training it refuses a record without annotations; a record without objects has empty ones.
    A subclass opens its kind of store and adds to the output. What was embedded moves with the
    picture, see :func:`move_boxes`; after other augmentations the embeddings would not hold.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[Augmentation],
        embeddings: str | None = None,
        **kwargs,
    ):
        """
        Args:
            is_train, augmentations, kwargs: see ``DatasetMapper``.
            embeddings: folder of a complete :class:`EmbeddingStore`; for training only. None: no
                embeddings are added.

        Raises:
            StoreError: the store is missing or incomplete, or not of the kind that is needed.
            ValueError: after an augmentation, the stored embeddings would no longer fit.
        """
        super().__init__(is_train, augmentations=augmentations, **kwargs)
        self.store: EmbeddingStore | None = None
        if embeddings is not None:
            if not is_train:
                raise ValueError("embeddings are for training: the model infers without them.")
            parts = list(single_augmentations(self.augmentations))
            for augmentation in parts:
                self._check(augmentation)
            self.store = self._open(embeddings, mirror=any(map(_may_mirror, parts)))

    def __call__(self, dataset_dict: dict) -> dict:
        if self.is_train and "annotations" not in dataset_dict:
            raise ValueError(f"No annotations to train on in {dataset_dict['file_name']}.")
        return super().__call__(dataset_dict)

    def _open(self, path: str, mirror: bool) -> EmbeddingStore:
        """The store, checked; ``mirror`` tells whether pictures may be mirrored."""
        raise NotImplementedError

    def _check(self, augmentation: Augmentation) -> None:
        kind = type(augmentation)
        if kind in _ALLOWED or (kind is T.RandomFlip and augmentation.horizontal):
            return
        reasons = [reason for reason, kinds in _REASONS.items() if kind in kinds]
        reasons.append("it is not known to keep what was embedded")
        raise ValueError(f"{kind.__name__} cannot be used with stored embeddings: {reasons[0]}.")


class GridCLIPDatasetMapper(TeacherMapper):
    """detectron2's mapper; in training it adds to its output

    * ``image_embeddings``: (V, D) float32, of the mirrored picture if ``image`` is mirrored, and
      ``image_windows``: (V, 4) float32, which parts of ``image`` they are, XYXY relative to its
      size, padding that an augmentation has added included; both if a store (of windows) is given.
      Windows follow the augmentations, as :func:`move_boxes` says. One that is left out is empty,
      [0, 0, 0, 0], so that all pictures have V;
    * ``negative_classes``, ``not_exhaustive_classes``: (n,) int64 contiguous category ids as
      tensors, if the record has them.
    """

    def _open(self, path: str, mirror: bool) -> EmbeddingStore:
        store = EmbeddingStore.open(path, mirror=mirror)
        if store.manifest.regions == PROPOSALS:
            raise ValueError(f"{path} holds embeddings of proposals: give a store of windows.")
        return store

    def _transform_annotations(self, dataset_dict, transforms, image_shape):
        super()._transform_annotations(dataset_dict, transforms, image_shape)
        for classes in ("negative_classes", "not_exhaustive_classes"):
            if classes in dataset_dict:
                dataset_dict[classes] = torch.as_tensor(dataset_dict[classes], dtype=torch.int64)
        if self.store is not None:
            # Nested lists of transforms arrive here flattened by TransformList.
            flips = sum(isinstance(t, T.HFlipTransform) for t in transforms.transforms)
            mirrored = flips % 2 == 1
            stored, embeddings = self.store.lookup(dataset_dict["image_id"], mirrored)
            # In float64 windows come back to the last bit of float32 where nothing is cropped.
            windows = stored.astype(np.float64)
            if mirrored:  # they lie in the mirrored picture; the transforms mirror them again
                windows[:, [0, 2]] = 1 - windows[:, [2, 0]]
            size = np.tile([dataset_dict["width"], dataset_dict["height"]], 2)
            moved, visible = move_boxes(windows * size, transforms, image_shape)
            relative = moved / np.tile(image_shape[::-1], 2) * visible[:, None]
            dataset_dict["image_embeddings"] = torch.from_numpy(embeddings)
            dataset_dict["image_windows"] = torch.from_numpy(relative.astype(np.float32))


class ViLDDatasetMapper(TeacherMapper):
    """detectron2's mapper; in training it adds to its output, if a store (of proposals) is given,

    * ``region_boxes``: (M, 4) float32, XYXY in pixels of ``image``, clipped to it, and
    * ``region_embeddings``: (M, D) float32, the teacher's of these regions.

    Boxes follow the augmentations, as :func:`move_boxes` says. The embeddings are those of the
    picture as it was stored, mirrored or not, as in the authors' code.
    """

    def _open(self, path: str, mirror: bool) -> EmbeddingStore:
        return EmbeddingStore.open(path, regions=PROPOSALS)

    def _transform_annotations(self, dataset_dict, transforms, image_shape):
        super()._transform_annotations(dataset_dict, transforms, image_shape)
        if self.store is not None:
            pixels, embeddings = self.store.lookup(dataset_dict["image_id"])
            boxes, visible = move_boxes(pixels, transforms, image_shape)
            dataset_dict["region_boxes"] = torch.from_numpy(boxes[visible])
            dataset_dict["region_embeddings"] = torch.from_numpy(embeddings[visible])


def move_boxes(
    boxes: NDArray, transforms: T.TransformList, image_shape: tuple[int, int]
) -> tuple[NDArray, NDArray]:
    """Take boxes through the transforms of their picture.

    Args:
        boxes: (k, 4) float, XYXY in pixels of the picture as it was.
        transforms: what was done to the picture.
        image_shape: its height and width now.

    Returns:
        boxes (k, 4) of the same type, XYXY in pixels of the picture as it is now, clipped to it;
        and (k,) bool, which ones are not empty and still have half of their area in the picture.
        The embedding of another would be that of something which mostly cannot be seen.
    """
    moved = transforms.apply_box(boxes)
    clipped = moved.clip(0, np.tile(image_shape[::-1], 2).astype(moved.dtype))
    before, now = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (moved, clipped))
    return clipped, (now > 0) & (now >= MIN_VISIBLE * before)


def single_augmentations(augmentation: Augmentation) -> Iterator[Augmentation]:
    """What an augmentation may do to a picture, taken out of lists and random application."""
    inner = {
        T.AugmentationList: lambda: augmentation.augs,
        T.TransformList: lambda: augmentation.transforms,
        T.RandomApply: lambda: [augmentation.aug],
        _TransformToAug: lambda: [augmentation.tfm],
    }.get(type(augmentation))
    if inner is None:
        yield augmentation
        return
    for part in inner():
        yield from single_augmentations(part)


def _may_mirror(augmentation: Augmentation) -> bool:
    if type(augmentation) is T.RandomFlip:
        return augmentation.horizontal and augmentation.prob > 0
    return type(augmentation) is T.HFlipTransform
