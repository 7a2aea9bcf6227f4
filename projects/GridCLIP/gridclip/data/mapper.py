"""The dataset mapper: detectron2's, with image embeddings and the federated annotation of LVIS."""

from collections.abc import Iterator

import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.transforms.augmentation import _TransformToAug

from gridclip.data.embedding_store import EmbeddingStore

KEEP_PICTURE = {
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
}
_CROPS = "it leaves only a part of the picture"
_ROTATES = "a rotated picture has another embedding"
_PADS = "its padding was not in the picture"
_FLIPS = "the store has no embeddings of pictures flipped upside down"
_REFUSED = {
    T.RandomCrop: _CROPS,
    T.RandomCrop_CategoryAreaConstraint: _CROPS,
    T.MinIoURandomCrop: _CROPS,
    T.CropTransform: _CROPS,
    T.FixedSizeCrop: "it crops or pads the picture",
    T.RandomExtent: "it crops or pads the picture",
    T.ExtentTransform: "it crops or pads the picture",
    T.PadTransform: _PADS,
    T.RandomRotation: _ROTATES,
    T.RotationTransform: _ROTATES,
    T.VFlipTransform: _FLIPS,
}


class AnnotatedDatasetMapper(DatasetMapper):
    """detectron2's mapper; in training it refuses a record without annotations.

    A record without objects has empty ones.
    """

    def __call__(self, dataset_dict):
        if self.is_train and "annotations" not in dataset_dict:
            raise ValueError(f"No annotations to train on in {dataset_dict['file_name']}.")
        return super().__call__(dataset_dict)


class GridCLIPDatasetMapper(AnnotatedDatasetMapper):
    """detectron2's mapper; in training it adds to its output

    * ``image_embeddings``: (V, D) float32 of the picture as augmented, mirrored or not, and
      ``image_windows``: (V, 4) float32, which parts of it they are, relative XYXY; both if a store
      is given;
    * ``negative_classes``, ``not_exhaustive_classes``: (n,) int64 contiguous category ids, in place
      of LVIS's 1-based ``neg_category_ids`` and ``not_exhaustive_category_ids``, if the dataset has
      them.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation | T.Transform],
        image_format: str = "RGB",
        image_embeddings: str | None = None,
        **kwargs,
    ):
        """
        Args:
            is_train, augmentations, image_format, kwargs: see ``DatasetMapper``.
            image_embeddings: folder of a complete :class:`EmbeddingStore`; for training only.

        Raises:
            StoreError: the store is missing, incomplete, or lacks the mirrored pictures
                that ``augmentations`` need.
            ValueError: an augmentation changes what the picture shows, so that no embedding of the
                store would fit it.
        """
        super().__init__(is_train, augmentations=augmentations, image_format=image_format, **kwargs)
        self.store = None
        if image_embeddings is not None:
            if not is_train:
                raise ValueError("image_embeddings is for training: the model infers without them.")
            flips = any([_flips(aug) for aug in single_augmentations(self.augmentations)])
            self.store = EmbeddingStore.open(image_embeddings)
            self.store.check(mirror=flips)

    def _transform_annotations(self, dataset_dict, transforms, image_shape):
        super()._transform_annotations(dataset_dict, transforms, image_shape)
        for ids, classes in (
            ("neg_category_ids", "negative_classes"),
            ("not_exhaustive_category_ids", "not_exhaustive_classes"),
        ):
            if ids in dataset_dict:
                dataset_dict[classes] = torch.tensor(dataset_dict.pop(ids), dtype=torch.int64) - 1
        if self.store is not None:
            # Nested lists of transforms arrive here flattened by TransformList.
            flips = sum(isinstance(t, T.HFlipTransform) for t in transforms.transforms)
            embeddings = self.store.lookup(dataset_dict["image_id"], mirrored=flips % 2 == 1)
            dataset_dict["image_embeddings"] = torch.from_numpy(embeddings)
            dataset_dict["image_windows"] = torch.tensor(self.store.manifest.boxes)


def single_augmentations(
    aug: T.Augmentation | T.Transform,
) -> Iterator[T.Augmentation | T.Transform]:
    """What an augmentation may do to a picture, taken out of lists and random application.

    Exact types only: what a subclass does is unknown.
    """
    if type(aug) is T.AugmentationList:
        inner = aug.augs
    elif type(aug) is T.TransformList:
        inner = aug.transforms
    elif type(aug) is T.RandomApply:
        inner = [aug.aug]
    elif type(aug) is _TransformToAug:
        inner = [aug.tfm]
    else:
        yield aug
        return
    for augmentation in inner:
        yield from single_augmentations(augmentation)


def _flips(aug: T.Augmentation | T.Transform) -> bool:
    """Whether a single augmentation may mirror a picture; ValueError if it may do worse to it."""
    if type(aug) is T.HFlipTransform:
        return True
    if type(aug) is T.RandomFlip and aug.horizontal:
        return aug.prob > 0
    if type(aug) in KEEP_PICTURE:
        return False
    reason = _FLIPS if type(aug) is T.RandomFlip else _REFUSED.get(type(aug))
    raise ValueError(
        f"{type(aug).__name__} cannot be used with image embeddings: "
        f"{reason or 'it is not known to leave the picture whole'}."
    )
