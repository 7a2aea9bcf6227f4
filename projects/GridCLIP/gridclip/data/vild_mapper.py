"""ViLD's dataset mapper: detectron2's, with regions and their stored embeddings."""

import torch
from detectron2.config import configurable
from detectron2.data import transforms as T
from detectron2.structures import Boxes

from gridclip.data.mapper import KEEP_PICTURE, AnnotatedDatasetMapper, single_augmentations
from gridclip.data.region_store import RegionStore

# A region is dropped when an augmentation leaves less of it in the picture: its stored embedding
# would be that of something which mostly cannot be seen.
MIN_VISIBLE = 0.5

_KEEP_REGIONS = KEEP_PICTURE | {
    T.HFlipTransform,
    T.RandomCrop,
    T.CropTransform,
    T.FixedSizeCrop,
    T.PadTransform,
    T.RandomExtent,
    T.ExtentTransform,
}
_ROTATES = "the box around a rotated region shows something else"
_FLIPS = "the store has no embeddings of regions upside down"
_REFUSED = {
    T.RandomRotation: _ROTATES,
    T.RotationTransform: _ROTATES,
    T.RandomFlip: _FLIPS,
    T.VFlipTransform: _FLIPS,
}


class ViLDDatasetMapper(AnnotatedDatasetMapper):
    """detectron2's mapper; in training it adds to its output, if a store is given,

    * ``region_boxes``: (M, 4) float32, XYXY in pixels of ``image``, clipped to it, and
    * ``region_embeddings``: (M, D) float32, the teacher's of these regions.

    Boxes follow the augmentations. A region of which less than half stays in the picture is left
    out. The embeddings are those of the picture as it was stored, mirrored or not, as in the
    authors' code.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation | T.Transform],
        image_format: str = "RGB",
        region_embeddings: str | None = None,
        **kwargs,
    ):
        """
        Args:
            is_train, augmentations, image_format, kwargs: see ``DatasetMapper``.
            region_embeddings: folder of a complete :class:`RegionStore`; for training only. None:
                ViLD-text, which needs none.

        Raises:
            StoreError: the store is missing or incomplete.
            ValueError: after an augmentation, boxes would no longer show what was embedded.
        """
        super().__init__(is_train, augmentations=augmentations, image_format=image_format, **kwargs)
        self.store = None
        if region_embeddings is not None:
            if not is_train:
                raise ValueError(
                    "region_embeddings is for training: the model infers without them."
                )
            for augmentation in single_augmentations(self.augmentations):
                _check_keeps_regions(augmentation)
            self.store = RegionStore.open(region_embeddings)

    def _transform_annotations(self, dataset_dict, transforms, image_shape):
        super()._transform_annotations(dataset_dict, transforms, image_shape)
        if self.store is not None:
            boxes, embeddings = self.store.lookup(dataset_dict["image_id"])
            boxes = Boxes(torch.from_numpy(transforms.apply_box(boxes)))
            area = boxes.area()
            boxes.clip(image_shape)
            keep = boxes.nonempty() & (boxes.area() >= MIN_VISIBLE * area)
            dataset_dict["region_boxes"] = boxes.tensor[keep]
            dataset_dict["region_embeddings"] = torch.from_numpy(embeddings)[keep]


def _check_keeps_regions(aug: T.Augmentation | T.Transform) -> None:
    if type(aug) is T.RandomFlip and aug.horizontal:
        return
    if type(aug) not in _KEEP_REGIONS:
        raise ValueError(
            f"{type(aug).__name__} cannot be used with region embeddings: "
            f"{_REFUSED.get(type(aug)) or 'it is not known to leave regions as they are'}."
        )
